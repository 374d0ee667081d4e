// The Python surface of a forest: checks and converts arguments and lets go of the GIL, no logic.
#include "tree/forest.h"

#include <pybind11/stl.h>

#include <algorithm>

#include "python/arguments.h"
#include "python/bytes.h"
#include "python/checks.h"

namespace py = pybind11;
using namespace pybind11::literals;

void bind_forest(py::module_& m);

namespace {

namespace checks = bavt::py_checks;
using bavt::Forest;
using bavt::NodeId;
using bavt::Tree;
using bavt::TreeId;

constexpr uint32_t kDefaultMaxNodes = 1 << 24;  // per tree: address space for thousands of trees

// Runs `use`, which must not touch Python, without the GIL: it may have to wait for a call of another thread.
template <typename Use>
auto without_gil(Use use) {
    const py::gil_scoped_release release;
    return use();
}

unsigned thread_count(py::handle threads) {
    if (!threads.is_none()) {
        return static_cast<unsigned>(checks::integer("threads", threads, 1, 1024, "an int from 1 to 1,024, or None"));
    }
    return std::clamp(std::thread::hardware_concurrency(), 1u, 64u);
}

std::unique_ptr<Forest> make_forest(py::handle num_trees, py::handle seed, py::handle threads, py::handle max_nodes,
                                    py::handle root_value, py::handle decay, py::handle max_bytes) {
    const auto trees = checks::integer("num_trees", num_trees, 0, Forest::kMaxTrees, "an int from 0 to 1,000,000");
    bavt::TreeOptions options;
    options.seed = checks::seed(seed);
    options.max_nodes = checks::node_limit(max_nodes, max_bytes, kDefaultMaxNodes);
    options.root_value = checks::number("root_value", root_value, -checks::kHuge, checks::kHuge, "a finite number");
    options.decay = checks::number("decay", decay, checks::kTiny, 1.0, "a number in (0, 1]");
    return std::make_unique<Forest>(static_cast<uint32_t>(trees), options, thread_count(threads));
}

TreeId tree_id(py::handle tree) {
    return static_cast<TreeId>(checks::integer("tree", tree, 0, UINT32_MAX, "a tree id"));
}

// The pairs of a wave; arrays among them are kept alive while the GIL is not held.
struct PyWave {
    checks::Numbers<uint32_t> trees, nodes;

    PyWave(py::handle t, py::handle n) {
        trees.read("trees", t, -1);
        nodes.read("nodes", n, static_cast<py::ssize_t>(trees.size()));
    }
    bavt::Wave get() const { return {trees.data(), nodes.data(), trees.size()}; }
};

template <typename T>
py::array_t<T> array_of(std::vector<T>&& items) {
    return py::array_t<T>(static_cast<py::ssize_t>(items.size()), items.data());
}

bool is_column(py::handle object) {
    if (py::isinstance<py::array>(object)) return py::reinterpret_borrow<py::array>(object).ndim() > 0;
    return PySequence_Check(object.ptr()) && !PyNumber_Check(object.ptr()) && !PyUnicode_Check(object.ptr());
}

// One number per tree id.
void read_remaining(Forest& forest, py::handle object, checks::Numbers<double>& by_tree) {
    const uint32_t slots = without_gil([&] { return forest.num_slots(); });
    by_tree.read("remaining", object, slots);
    for (size_t i = 0; i < by_tree.size(); ++i) {
        const double remaining = by_tree.data()[i];
        if (remaining >= 0.0 && remaining <= checks::kHuge) continue;
        checks::bad_value("remaining", "finite numbers >= 0", std::to_string(remaining));
    }
}

py::tuple select_wave(Forest& forest, py::handle policy, py::handle remaining, py::handle total, py::handle exploration,
                      py::handle max_depth, py::handle wave, py::handle per_tree) {
    const bavt::Policy chosen = checks::policy(policy);
    checks::Numbers<double> by_tree;
    const bool one_for_all = !is_column(remaining);
    if (!one_for_all) read_remaining(forest, remaining, by_tree);
    const bavt::SelectArgs args =
        checks::select_args(one_for_all ? remaining : py::handle(py::float_(1.0)), total, exploration, max_depth);
    size_t limit = SIZE_MAX;
    uint32_t each = wave.is_none() ? 1 : UINT32_MAX;
    if (!wave.is_none())
        limit = static_cast<size_t>(checks::integer("wave", wave, 1, INT64_MAX, "an int >= 1 or None"));
    if (!per_tree.is_none()) {
        each = static_cast<uint32_t>(checks::integer("per_tree", per_tree, 1, UINT32_MAX, "an int >= 1 or None"));
    }
    bavt::Selection selection = without_gil([&] {
        return forest.select(chosen, args, by_tree.size() > 0 ? by_tree.data() : nullptr, each, limit, by_tree.size());
    });
    return py::make_tuple(array_of(std::move(selection.trees)), array_of(std::move(selection.nodes)));
}

// Where each pair's children begin, from how many children every pair has or from counts.
std::vector<size_t> offsets_of(size_t each, py::handle counts, size_t size) {
    std::vector<size_t> offsets(size + 1, 0);
    if (counts.is_none()) {
        for (size_t i = 0; i < size; ++i) offsets[i + 1] = offsets[i] + each;
        return offsets;
    }
    checks::Numbers<int64_t> given;
    given.read("counts", counts, static_cast<py::ssize_t>(size));
    for (size_t i = 0; i < size; ++i) {
        const int64_t count = given.data()[i];
        if (count < 0 || count > bavt::kMaxNodes) {
            checks::bad_value("counts", "ints >= 0", std::to_string(count) + " at " + std::to_string(i));
        }
        offsets[i + 1] = offsets[i] + static_cast<size_t>(count);
    }
    return offsets;
}

// How many values each of `size` pairs has, which must be in as many rows; with counts, in one row.
size_t values_of_each(const checks::Numbers<double>& v, bool taken, py::handle values, bool counted, size_t size) {
    if (taken && v.rows() == (counted ? -1 : static_cast<py::ssize_t>(size))) return size > 0 ? v.size() / size : 0;
    auto shaped = py::array::ensure(values);
    if (!shaped) PyErr_Clear();
    const bool fits =
        shaped && (counted ? shaped.ndim() == 1 : shaped.ndim() == 2 && static_cast<size_t>(shaped.shape(0)) == size);
    if (fits) return counted ? 0 : static_cast<size_t>(shaped.shape(1));
    if (shaped && size == 0 && shaped.size() == 0) return 0;  // an empty list has no rows
    const std::string rows = "shape (" + std::to_string(size) + ", m), or (sum of counts,) with counts";
    checks::bad_value("values", counted ? "shape (sum of counts,)" : rows,
                      shaped ? "shape " + py::str(shaped.attr("shape")).cast<std::string>() : checks::text_of(values));
}

py::array_t<uint32_t> expand(Forest& forest, py::handle trees, py::handle nodes, py::handle values, py::handle counts,
                             py::handle terminal, py::handle priors) {
    const PyWave wave(trees, nodes);
    const size_t size = wave.get().size;
    checks::Numbers<double> v;
    const bool taken = v.take(values);
    const std::vector<size_t> offsets =
        offsets_of(values_of_each(v, taken, values, !counts.is_none(), size), counts, size);
    const auto count = static_cast<py::ssize_t>(offsets.back());
    const py::ssize_t rows = counts.is_none() ? static_cast<py::ssize_t>(size) : -1;
    if (!taken || v.size() != offsets.back()) v.read_rows("values", values, count, rows);
    checks::require_finite("values", v.data(), v.size());
    checks::Numbers<bool> ends;
    if (!terminal.is_none()) ends.read_rows("terminal", terminal, count, rows);
    checks::Numbers<float> weights;
    if (!priors.is_none()) {
        weights.read_rows("priors", priors, count, rows);
        checks::require_priors(weights.data(), weights.size());
    }
    const bavt::Children children{offsets.data(), v.data(), reinterpret_cast<const uint8_t*>(ends.data()),
                                  weights.data()};
    return array_of(without_gil([&] { return forest.expand(wave.get(), children); }));
}

void backup(Forest& forest, py::handle trees, py::handle nodes, py::handle values, py::handle reduce) {
    const PyWave wave(trees, nodes);
    checks::Numbers<double> v;
    v.read("values", values, static_cast<py::ssize_t>(wave.get().size));
    checks::require_finite("values", v.data(), v.size());
    const bavt::Backup mode = checks::reduce(reduce);
    without_gil([&] { forest.backup(wave.get(), v.data(), mode); });
}

template <void (Forest::*change)(const bavt::Wave&)>
void change_wave(Forest& forest, py::handle trees, py::handle nodes) {
    const PyWave wave(trees, nodes);
    without_gil([&] { (forest.*change)(wave.get()); });
}

// Runs `use`, which must not touch Python, on a tree.
template <typename Use>
auto with_tree(Forest& forest, py::handle tree, Use use) {
    const TreeId id = tree_id(tree);
    py::gil_scoped_release release;
    return forest.with_tree(id, use);
}

template <typename Use>
auto with_node(Forest& forest, py::handle tree, py::handle node, Use use) {
    const int64_t id = checks::integer("node", node, "a node id");
    return with_tree(forest, tree, [&](Tree& t) {
        if (id < 0 || id >= t.num_nodes()) {
            throw std::out_of_range("node: expected an id from 0 to " + std::to_string(t.num_nodes() - 1) + ", got " +
                                    std::to_string(id));
        }
        return use(t, static_cast<NodeId>(id));
    });
}

TreeId add(Forest& forest, py::handle root_value) {
    const double value = checks::number("root_value", root_value, -checks::kHuge, checks::kHuge, "a finite number");
    return without_gil([&] { return forest.add(value); });
}

template <void (Forest::*change)(TreeId)>
void change_tree(Forest& forest, py::handle tree) {
    const TreeId id = tree_id(tree);
    without_gil([&] { (forest.*change)(id); });
}

py::array_t<uint32_t> reroot(Forest& forest, py::handle tree, py::handle node) {
    return array_of(with_node(forest, tree, node, [](Tree& t, NodeId id) { return t.reroot(id); }));
}

std::vector<NodeId> best_path(Forest& forest, py::handle tree) {
    return with_tree(forest, tree, [](const Tree& t) { return t.best_path(); });
}

std::vector<NodeId> children(Forest& forest, py::handle tree, py::handle node) {
    return with_node(forest, tree, node, [](const Tree& t, NodeId id) { return t.children(id); });
}

// ---- Snapshots -----------------------------------------------------------------------------------------------------

void save(Forest& forest, const py::object& path) {
    const std::string file = checks::file_path(path);
    without_gil([&] { forest.save(file); });
}

std::unique_ptr<Forest> load(const py::object& path, py::handle threads) {
    const std::string file = checks::file_path(path);
    const unsigned count = thread_count(threads);
    return without_gil([&] { return Forest::load(file, count); });
}

// The forest may grow between asking for its size and writing it.
py::bytes to_bytes(Forest& forest) {
    for (size_t slack = 0, size = without_gil([&] { return forest.to_memory(nullptr, 0); });;) {
        bavt::py_bytes::Buffer bytes(size + slack);
        char* const out = bytes.data();
        size = without_gil([&] { return forest.to_memory(out, bytes.size()); });
        if (size <= bytes.size()) return bytes.take(size);
        slack = 2 * slack + size / 8;
    }
}

std::unique_ptr<Forest> from_bytes(const py::object& object, py::handle threads) {
    const std::string_view data = checks::bytes_of("data", object);
    const unsigned count = thread_count(threads);
    return without_gil([&] { return Forest::from_bytes(data.data(), data.size(), count); });
}

py::tuple pickled(Forest& forest) { return py::make_tuple(to_bytes(forest), forest.threads()); }

std::unique_ptr<Forest> unpickled(const py::tuple& state) { return from_bytes(state[0].cast<py::bytes>(), state[1]); }

// ---- Reading -------------------------------------------------------------------------------------------------------

// A copy of one field of a tree's nodes: of what `first` points at, and every `stride` bytes on.
template <typename T, size_t stride, auto first>
py::array_t<T> copy_of(Forest& forest, py::handle tree) {
    return array_of(with_tree(forest, tree, [](const Tree& t) {
        std::vector<T> items(t.num_nodes());
        const char* at = reinterpret_cast<const char*>(first(t));
        for (size_t i = 0; i < items.size(); ++i) std::memcpy(&items[i], at + i * stride, sizeof(T));
        return items;
    }));
}

const NodeId* parents(const Tree& tree) { return tree.parents(); }
const uint32_t* visit_counts(const Tree& tree) { return &tree.hot()->visits; }
const double* value_sums(const Tree& tree) { return &tree.hot()->value_sum; }
const double* values(const Tree& tree) { return tree.values(); }
const uint8_t* flags(const Tree& tree) { return tree.all_flags(); }
const uint8_t* tries(const Tree& tree) { return tree.tries(); }

py::array_t<uint32_t> depths(Forest& forest, py::handle tree) {
    return array_of(with_tree(forest, tree, [](const Tree& t) { return t.depths(); }));
}

py::array_t<uint32_t> num_nodes(Forest& forest) {
    return array_of(without_gil([&] { return forest.num_nodes(); }));
}

py::array live(Forest& forest) {
    return array_of(without_gil([&] { return forest.live(); })).attr("astype")("bool");
}

}  // namespace

void bind_forest(py::module_& m) {
    constexpr size_t kHot = sizeof(bavt::Hot);
    py::class_<Forest> forest(m, "Forest");
    forest
        .def(py::init(&make_forest), "num_trees"_a, "seed"_a = 0, "threads"_a = py::none(), "max_nodes"_a = py::none(),
             "root_value"_a = 1.0, "decay"_a = 0.85, "max_bytes"_a = py::none())
        .def("select", &select_wave, "policy"_a = "power", "remaining"_a = 1.0, "total"_a = 1.0, "exploration"_a = 1.0,
             "max_depth"_a = py::none(), "wave"_a = py::none(), "per_tree"_a = py::none())
        .def("expand", &expand, "trees"_a, "nodes"_a, "values"_a, "counts"_a = py::none(), "terminal"_a = py::none(),
             "priors"_a = py::none())
        .def("backup", &backup, "trees"_a, "nodes"_a, "values"_a, "reduce"_a = "mean")
        .def("cancel", &change_wave<&Forest::cancel>, "trees"_a, "nodes"_a)
        .def("penalize", &change_wave<&Forest::penalize>, "trees"_a, "nodes"_a)
        .def("prune", &change_wave<&Forest::prune>, "trees"_a, "nodes"_a)
        .def("close", &change_wave<&Forest::close>, "trees"_a, "nodes"_a)
        .def("mark_terminal", &change_wave<&Forest::mark_terminal>, "trees"_a, "nodes"_a);
    forest.def("add", &add, "root_value"_a = 1.0)
        .def("finish", &change_tree<&Forest::finish>, "tree"_a)
        .def("drop", &change_tree<&Forest::drop>, "tree"_a)
        .def("reroot", &reroot, "tree"_a, "node"_a)
        .def("best_path", &best_path, "tree"_a)
        .def("children", &children, "tree"_a, "node"_a)
        .def("save", &save, "path"_a)
        .def_static("load", &load, "path"_a, "threads"_a = py::none())
        .def("to_bytes", &to_bytes)
        .def_static("from_bytes", &from_bytes, "data"_a, "threads"_a = py::none())
        .def(py::pickle(&pickled, &unpickled))
        .def("__reduce_ex__", &bavt::py_checks::taken_apart, "protocol"_a);
    forest.def("parents", &copy_of<int32_t, sizeof(NodeId), &parents>, "tree"_a)
        .def("visit_counts", &copy_of<uint32_t, kHot, &visit_counts>, "tree"_a)
        .def("value_sums", &copy_of<double, kHot, &value_sums>, "tree"_a)
        .def("values", &copy_of<double, sizeof(double), &values>, "tree"_a)
        .def("depths", &depths, "tree"_a)
        .def("flags", &copy_of<uint8_t, 1, &flags>, "tree"_a)
        .def("tries", &copy_of<uint8_t, 1, &tries>, "tree"_a);
    forest.def_property_readonly("num_nodes", &num_nodes)
        .def_property_readonly("live", &live)
        .def_property_readonly("threads", &Forest::threads);
}
