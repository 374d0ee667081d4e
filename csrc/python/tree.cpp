// The Python surface of one tree: checks and converts arguments, no logic.
#include <pybind11/stl.h>

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
    return std::make_unique<Tree>(options);
}

NodeId expand(Tree& tree, py::handle node, py::handle values, py::handle terminal, py::handle priors) {
    const NodeId id = checks::node(tree, node);
    const auto v = checks::vector_of<double>("values", values, -1);
    const py::ssize_t count = v.shape(0);
    if (count == 0) throw py::value_error("values: expected at least one child, got none; close() the node instead");
    checks::require_finite("values", v.data(), static_cast<size_t>(count));
    py::array_t<bool, py::array::c_style> ends;
    if (!terminal.is_none()) ends = checks::vector_of<bool>("terminal", terminal, count);
    py::array_t<float, py::array::c_style> weights;
    if (!priors.is_none()) {
        weights = checks::vector_of<float>("priors", priors, count);
        checks::require_priors(weights.data(), static_cast<size_t>(count));
    }
    return tree.expand(id, v.data(), terminal.is_none() ? nullptr : reinterpret_cast<const uint8_t*>(ends.data()),
                       priors.is_none() ? nullptr : weights.data(),
                       static_cast<uint32_t>(std::min<py::ssize_t>(count, bavt::kNone)));
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

// A read-only view of one field of every node. It keeps the tree alive, whose memory never moves.
template <typename T, typename Field>
py::array_t<T> view(const py::object& self, const Field* first, size_t stride) {
    const auto& tree = self.cast<const Tree&>();
    py::array_t<T> array({static_cast<py::ssize_t>(tree.num_nodes())}, {static_cast<py::ssize_t>(stride)},
                         reinterpret_cast<const T*>(first), self);
    py::detail::array_proxy(array.ptr())->flags &= ~py::detail::npy_api::NPY_ARRAY_WRITEABLE_;
    return array;
}

py::array_t<uint32_t> depths(const Tree& tree) {
    auto array = array_of(tree.depths());
    py::detail::array_proxy(array.ptr())->flags &= ~py::detail::npy_api::NPY_ARRAY_WRITEABLE_;
    return array;
}

const Tree& of(const py::object& self) { return self.cast<const Tree&>(); }

template <bavt::Flag flag, bool on>
void set_flag(Tree& tree, py::handle node) {
    tree.set_flag(checks::node(tree, node), flag, on);
}

}  // namespace

void bind_tree(py::module_& m) {
    py::class_<Tree> tree(m, "Tree");
    tree.def(py::init(&make_tree), "seed"_a = 0, "max_nodes"_a = py::none(), "root_value"_a = 1.0, "decay"_a = 0.85,
             "max_bytes"_a = py::none())
        .def("expand", &expand, "node"_a, "values"_a, "terminal"_a = py::none(), "priors"_a = py::none())
        .def("select", &select_node, "policy"_a = "power", "remaining"_a = 1.0, "total"_a = 1.0, "exploration"_a = 1.0,
             "max_depth"_a = py::none())
        .def("backup", &backup, "node"_a, "value"_a, "reduce"_a = "mean")
        .def("best_path", &Tree::best_path)
        .def(
            "children", [](const Tree& t, py::handle n) { return t.children(checks::node(t, n)); }, "node"_a)
        .def(
            "penalize", [](Tree& t, py::handle n) { t.penalize(checks::node(t, n)); }, "node"_a)
        .def(
            "prune", [](Tree& t, py::handle n) { t.prune(checks::node(t, n)); }, "node"_a)
        .def(
            "mark_terminal", [](Tree& t, py::handle n) { t.mark_terminal(checks::node(t, n)); }, "node"_a)
        .def("close", &set_flag<bavt::kClosed, true>, "node"_a)
        .def("mark_in_flight", &set_flag<bavt::kInFlight, true>, "node"_a)
        .def("unmark_in_flight", &set_flag<bavt::kInFlight, false>, "node"_a)
        .def(
            "reroot", [](Tree& t, py::handle n) { return array_of(t.reroot(checks::node(t, n))); }, "node"_a)
        .def(
            "save", [](const Tree& t, const py::object& path) { t.save(checks::file_path(path)); }, "path"_a)
        .def_static(
            "load",
            [](const py::object& path) {
                const std::string file = checks::file_path(path);
                const py::gil_scoped_release release;
                return Tree::load(file);
            },
            "path"_a)
        .def("to_bytes",
             [](const Tree& t) {
                 bavt::py_bytes::Buffer bytes(t.snapshot_size());
                 t.to_memory(bytes.data());
                 return bytes.take();
             })
        .def_static(
            "from_bytes",
            [](const py::bytes& d) {
                const auto data = std::string_view(d);
                const py::gil_scoped_release release;
                return Tree::from_bytes(data.data(), data.size());
            },
            "data"_a);

    tree.def_property_readonly("num_nodes", &Tree::num_nodes)
        .def_property_readonly("max_nodes", &Tree::max_nodes)
        .def_property_readonly("depths", &depths)
        .def_property_readonly("parents", [](const py::object& s) { return view<int32_t>(s, of(s).parents(), 4); })
        .def_property_readonly(
            "visit_counts",
            [](const py::object& s) { return view<uint32_t>(s, &of(s).hot()->visits, sizeof(bavt::Hot)); })
        .def_property_readonly(
            "value_sums",
            [](const py::object& s) { return view<double>(s, &of(s).hot()->value_sum, sizeof(bavt::Hot)); })
        .def_property_readonly("flags", [](const py::object& s) { return view<uint8_t>(s, of(s).all_flags(), 1); })
        .def_property_readonly("values", [](const py::object& s) { return view<double>(s, of(s).values(), 8); })
        .def_property_readonly("weights", [](const py::object& s) { return view<double>(s, of(s).weights(), 8); })
        .def_property_readonly("tries", [](const py::object& s) { return view<uint8_t>(s, of(s).tries(), 1); });
    tree.attr("TERMINAL") = static_cast<int>(bavt::kTerminal);
    tree.attr("PRUNED") = static_cast<int>(bavt::kPruned);
    tree.attr("CLOSED") = static_cast<int>(bavt::kClosed);
    tree.attr("IN_FLIGHT") = static_cast<int>(bavt::kInFlight);
}
