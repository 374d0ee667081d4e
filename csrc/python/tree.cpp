// The Python surface of one tree: checks and converts arguments, no logic.
#include <pybind11/stl.h>

#include "python/arguments.h"
#include "python/bytes.h"
#include "python/checks.h"
#include "tree/snapshot.h"

namespace py = pybind11;
using namespace pybind11::literals;

void bind_tree(py::module_& m);

namespace {

namespace checks = bavt::py_checks;
using bavt::NodeId;
using bavt::Tree;

std::unique_ptr<Tree> make_tree(py::handle seed, py::handle max_nodes, py::handle root_value, py::handle decay,
                                py::handle max_bytes) {
    bavt::TreeOptions options;
    options.seed = checks::seed(seed);
    options.max_nodes = checks::node_limit(max_nodes, max_bytes, bavt::kMaxNodes);
    options.root_value = checks::number("root_value", root_value, -checks::kHuge, checks::kHuge, "a finite number");
    options.decay = checks::number("decay", decay, checks::kTiny, 1.0, "a number in (0, 1]");
    try {
        return std::make_unique<Tree>(options);
    } catch (const std::bad_alloc&) {
        throw bavt::CapacityError("max_nodes: no address space for " +
                                  std::to_string(Tree::bytes_to_begin_with(options)) +
                                  " bytes, which a tree of up to " + std::to_string(options.max_nodes) +
                                  " nodes reserves; make it with a smaller max_nodes (or max_bytes)");
    }
}

NodeId expand(Tree& tree, py::handle node, py::handle values, py::handle terminal, py::handle priors,
              py::handle weights) {
    const NodeId id = checks::node(tree, node);
    checks::Numbers<double> v;
    v.read("values", values, -1);
    if (v.size() == 0) throw py::value_error("values: expected at least one child, got none; close() the node instead");
    checks::require_finite("values", v.data(), v.size());
    const auto count = static_cast<py::ssize_t>(v.size());
    checks::Numbers<bool> ends;
    if (!terminal.is_none()) ends.read("terminal", terminal, count);
    checks::Numbers<float> p;
    if (!priors.is_none()) {
        p.read("priors", priors, count);
        checks::require_priors(p.data(), p.size());
    }
    checks::Numbers<double> w;
    if (!weights.is_none()) {
        w.read("weights", weights, count);
        checks::require_finite("weights", w.data(), w.size());
    }
    return tree.expand(id, v.data(), reinterpret_cast<const uint8_t*>(ends.data()), p.data(),
                       static_cast<uint32_t>(std::min<size_t>(v.size(), bavt::kNone)), w.data());
}

int64_t select_node(Tree& tree, py::handle policy, py::handle remaining, py::handle total, py::handle exploration,
                    py::handle max_depth) {
    const bavt::SelectArgs args = checks::select_args(remaining, total, exploration, max_depth);
    const NodeId node = tree.select(checks::policy(policy), args);
    return node == bavt::kNone ? -1 : static_cast<int64_t>(node);
}

void backup(Tree& tree, py::handle node, py::handle value, py::handle reduce) {
    const NodeId id = checks::node(tree, node);
    const double v = checks::number("value", value, -checks::kHuge, checks::kHuge, "a finite number");
    tree.backup(id, v, checks::reduce(reduce));
}

template <typename T>
py::array_t<T> array_of(const std::vector<T>& items) {
    return py::array_t<T>(static_cast<py::ssize_t>(items.size()), items.data());
}

const Tree& of(const py::object& self) { return self.cast<const Tree&>(); }

// One field of every node, read-only: a view that keeps the tree alive where its memory never moves, else a copy.
template <typename T, typename Field>
py::array_t<T> column(const py::object& self, const Field* first, size_t stride, bool moves) {
    const auto& tree = self.cast<const Tree&>();
    py::array_t<T> array({static_cast<py::ssize_t>(tree.num_nodes())}, {static_cast<py::ssize_t>(stride)},
                         reinterpret_cast<const T*>(first), moves ? py::object() : self);
    py::detail::array_proxy(array.ptr())->flags &= ~py::detail::npy_api::NPY_ARRAY_WRITEABLE_;
    return array;
}

py::array_t<uint32_t> depths(const Tree& tree) {
    auto array = array_of(tree.depths());
    py::detail::array_proxy(array.ptr())->flags &= ~py::detail::npy_api::NPY_ARRAY_WRITEABLE_;
    return array;
}

template <bavt::Flag flag, bool on>
void set_flag(Tree& tree, py::handle node) {
    tree.set_flag(checks::node(tree, node), flag, on);
}

std::vector<NodeId> children(const Tree& tree, py::handle node) { return tree.children(checks::node(tree, node)); }

void set_weight(Tree& tree, py::handle node, py::handle weight) {
    const NodeId id = checks::node(tree, node);
    tree.set_weight(id, checks::number("weight", weight, -checks::kHuge, checks::kHuge, "a finite number"));
}

template <auto change>
void change_node(Tree& tree, py::handle node) {
    (tree.*change)(checks::node(tree, node));
}

py::array_t<uint32_t> reroot(Tree& tree, py::handle node) { return array_of(tree.reroot(checks::node(tree, node))); }

void save(const Tree& tree, const py::object& path) { tree.save(checks::file_path(path)); }

std::unique_ptr<Tree> load(const py::object& path) {
    const std::string file = checks::file_path(path);
    const py::gil_scoped_release release;
    return Tree::load(file);
}

py::bytes to_bytes(const Tree& tree) {
    bavt::py_bytes::Buffer bytes(tree.snapshot_size());
    tree.to_memory(bytes.data());
    return bytes.take();
}

std::unique_ptr<Tree> from_bytes(const py::object& object) {
    const std::string_view data = checks::bytes_of("data", object);
    const py::gil_scoped_release release;
    return Tree::from_bytes(data.data(), data.size());
}

template <typename T, typename Field>
py::array_t<T> view(const py::object& self, const Field* first, size_t stride) {
    return column<T>(self, first, stride, of(self).moves());
}

py::array_t<int32_t> parents(const py::object& self) { return view<int32_t>(self, of(self).parents(), 4); }
py::array_t<uint32_t> visit_counts(const py::object& self) {
    return view<uint32_t>(self, &of(self).hot()->visits, sizeof(bavt::Hot));
}
py::array_t<double> value_sums(const py::object& self) {
    return view<double>(self, &of(self).hot()->value_sum, sizeof(bavt::Hot));
}
py::array_t<double> values(const py::object& self) { return view<double>(self, of(self).values(), 8); }
py::array_t<double> weights(const py::object& self) { return column<double>(self, of(self).weights(), 8, true); }
py::array_t<uint8_t> flags(const py::object& self) { return view<uint8_t>(self, of(self).all_flags(), 1); }
py::array_t<uint8_t> tries(const py::object& self) { return view<uint8_t>(self, of(self).tries(), 1); }

}  // namespace

void bind_tree(py::module_& m) {
    py::class_<Tree> tree(m, "Tree");
    tree.def(py::init(&make_tree), "seed"_a = 0, "max_nodes"_a = py::none(), "root_value"_a = 1.0, "decay"_a = 0.85,
             "max_bytes"_a = py::none())
        .def("expand", &expand, "node"_a, "values"_a, "terminal"_a = py::none(), "priors"_a = py::none(),
             "weights"_a = py::none())
        .def("select", &select_node, "policy"_a = "power", "remaining"_a = 1.0, "total"_a = 1.0, "exploration"_a = 1.0,
             "max_depth"_a = py::none())
        .def("backup", &backup, "node"_a, "value"_a, "reduce"_a = "mean")
        .def("best_path", &Tree::best_path)
        .def("children", &children, "node"_a)
        .def("set_weight", &set_weight, "node"_a, "weight"_a)
        .def("penalize", &change_node<&Tree::penalize>, "node"_a)
        .def("prune", &change_node<&Tree::prune>, "node"_a)
        .def("mark_terminal", &change_node<&Tree::mark_terminal>, "node"_a)
        .def("close", &set_flag<bavt::kClosed, true>, "node"_a)
        .def("mark_in_flight", &set_flag<bavt::kInFlight, true>, "node"_a)
        .def("unmark_in_flight", &set_flag<bavt::kInFlight, false>, "node"_a)
        .def("reroot", &reroot, "node"_a)
        .def("save", &save, "path"_a)
        .def_static("load", &load, "path"_a)
        .def("to_bytes", &to_bytes)
        .def_static("from_bytes", &from_bytes, "data"_a)
        .def(py::pickle(&to_bytes, &from_bytes))
        .def("__reduce_ex__", &bavt::py_checks::taken_apart, "protocol"_a);
    tree.def_property_readonly("num_nodes", &Tree::num_nodes)
        .def_property_readonly("max_nodes", &Tree::max_nodes)
        .def_property_readonly("parents", &parents)
        .def_property_readonly("visit_counts", &visit_counts)
        .def_property_readonly("value_sums", &value_sums)
        .def_property_readonly("values", &values)
        .def_property_readonly("weights", &weights)
        .def_property_readonly("depths", &depths)
        .def_property_readonly("flags", &flags)
        .def_property_readonly("tries", &tries);
    tree.attr("TERMINAL") = static_cast<int>(bavt::kTerminal);
    tree.attr("PRUNED") = static_cast<int>(bavt::kPruned);
    tree.attr("CLOSED") = static_cast<int>(bavt::kClosed);
    tree.attr("IN_FLIGHT") = static_cast<int>(bavt::kInFlight);
}
