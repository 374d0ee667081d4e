// The Python surface of a forest: checks and converts arguments and lets go of the GIL, no logic.
#include "tree/forest.h"

#include <pybind11/stl.h>

#include <algorithm>

#include "python/bytes.h"
#include "python/checks.h"

namespace py = pybind11;
using namespace pybind11::literals;

void bind_forest(py::module_& m);

namespace {

namespace checks = bavt::py_checks;
using bavt::Forest;
using bavt::NodeId;
using bavt::TreeId;
using Ids = py::array_t<uint32_t, py::array::c_style>;

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

// Ids as uint32: without a copy where they are, else converted with a check, since -1 must not become 4294967295.
Ids ids_of(const char* name, py::handle object, py::ssize_t count) {
    if (py::isinstance<Ids>(object)) return checks::vector_of<uint32_t>(name, object, count);
    const auto wide = checks::vector_of<int64_t>(name, object, count);
    Ids narrow(wide.shape(0));
    for (py::ssize_t i = 0; i < wide.shape(0); ++i) {
        if (wide.at(i) < 0 || wide.at(i) > UINT32_MAX) {
            throw py::index_error(std::string(name) + ": expected ids >= 0, got " + std::to_string(wide.at(i)) +
                                  " at " + std::to_string(i));
        }
        narrow.mutable_at(i) = static_cast<uint32_t>(wide.at(i));
    }
    return narrow;
}

// Arrays of a wave, kept alive while the GIL is not held.
struct PyWave {
    Ids trees, nodes;

    PyWave(py::handle t, py::handle n) : trees(ids_of("trees", t, -1)), nodes(ids_of("nodes", n, trees.shape(0))) {}
    bavt::Wave get() const { return {trees.data(), nodes.data(), static_cast<size_t>(trees.shape(0))}; }
};

template <typename T>
py::array_t<T> array_of(std::vector<T>&& items) {
    return py::array_t<T>(static_cast<py::ssize_t>(items.size()), items.data());
}

py::tuple select_wave(Forest& forest, py::handle policy, py::handle remaining, py::handle total, py::handle exploration,
                      py::handle max_depth, py::handle wave, py::handle per_tree) {
    const bavt::Policy chosen = checks::policy(policy);
    py::array_t<double, py::array::c_style> by_tree;
    py::object scalar = py::float_(1.0);
    if (py::isinstance<py::array>(remaining) && py::reinterpret_borrow<py::array>(remaining).ndim() > 0) {
        const uint32_t slots = without_gil([&] { return forest.num_slots(); });
        by_tree = checks::vector_of<double>("remaining", remaining, slots);
        for (py::ssize_t i = 0; i < by_tree.shape(0); ++i) {
            if (!(by_tree.at(i) >= 0.0 && by_tree.at(i) <= checks::kHuge)) {
                checks::bad_value("remaining", "finite numbers >= 0", std::to_string(by_tree.at(i)));
            }
        }
    } else {
        scalar = py::reinterpret_borrow<py::object>(remaining);
    }
    const bavt::SelectArgs args = checks::select_args(scalar, total, exploration, max_depth);
    size_t limit = SIZE_MAX;
    uint32_t each = wave.is_none() ? 1 : UINT32_MAX;
    if (!wave.is_none())
        limit = static_cast<size_t>(checks::integer("wave", wave, 1, INT64_MAX, "an int >= 1 or None"));
    if (!per_tree.is_none()) {
        each = static_cast<uint32_t>(checks::integer("per_tree", per_tree, 1, UINT32_MAX, "an int >= 1 or None"));
    }
    const double* remaining_by_tree = by_tree.size() > 0 ? by_tree.data() : nullptr;
    bavt::Selection selection;
    {
        py::gil_scoped_release release;
        selection = forest.select(chosen, args, remaining_by_tree, each, limit, static_cast<size_t>(by_tree.size()));
    }
    return py::make_tuple(array_of(std::move(selection.trees)), array_of(std::move(selection.nodes)));
}

// Where each pair's children begin, from (w, m) values or from counts.
std::vector<size_t> offsets_of(const py::array& values, py::handle counts, size_t size) {
    std::vector<size_t> offsets(size + 1, 0);
    if (counts.is_none()) {
        const auto each = static_cast<size_t>(values.shape(1));
        for (size_t i = 0; i < size; ++i) offsets[i + 1] = offsets[i] + each;
        return offsets;
    }
    const auto given = checks::vector_of<int64_t>("counts", counts, static_cast<py::ssize_t>(size));
    for (size_t i = 0; i < size; ++i) {
        const int64_t count = given.at(static_cast<py::ssize_t>(i));
        if (count < 0 || count > bavt::kMaxNodes) {
            checks::bad_value("counts", "ints >= 0", std::to_string(count) + " at " + std::to_string(i));
        }
        offsets[i + 1] = offsets[i] + static_cast<size_t>(count);
    }
    return offsets;
}

// One entry per child, as (w, m) or flat.
template <typename T>
py::array_t<T, py::array::c_style> per_child(const char* name, py::handle object, size_t count) {
    auto array = py::array::ensure(object);
    if (array && array.ndim() == 2 && static_cast<size_t>(array.size()) == count) array = array.reshape({-1});
    return checks::vector_of<T>(name, array ? py::object(array) : py::reinterpret_borrow<py::object>(object),
                                static_cast<py::ssize_t>(count));
}

py::array_t<uint32_t> expand(Forest& forest, py::handle trees, py::handle nodes, py::handle values, py::handle counts,
                             py::handle terminal, py::handle priors) {
    const PyWave wave(trees, nodes);
    const size_t size = wave.get().size;
    auto shaped = py::array::ensure(values);
    if (!shaped) PyErr_Clear();
    const py::ssize_t wanted_dims = counts.is_none() ? 2 : 1;
    if (!shaped || shaped.ndim() != wanted_dims || (counts.is_none() && static_cast<size_t>(shaped.shape(0)) != size)) {
        checks::bad_value(
            "values",
            counts.is_none() ? "shape (" + std::to_string(size) + ", m), or (sum of counts,) with counts"
                             : std::string("shape (sum of counts,)"),
            shaped ? "shape " + py::str(shaped.attr("shape")).cast<std::string>() : checks::text_of(values));
    }
    const std::vector<size_t> offsets = offsets_of(shaped, counts, size);
    const auto v = per_child<double>("values", shaped, offsets.back());
    checks::require_finite("values", v.data(), offsets.back());
    py::array_t<bool, py::array::c_style> ends;
    if (!terminal.is_none()) ends = per_child<bool>("terminal", terminal, offsets.back());
    py::array_t<float, py::array::c_style> weights;
    if (!priors.is_none()) {
        weights = per_child<float>("priors", priors, offsets.back());
        checks::require_priors(weights.data(), offsets.back());
    }
    const bavt::Children children{offsets.data(), v.data(),
                                  terminal.is_none() ? nullptr : reinterpret_cast<const uint8_t*>(ends.data()),
                                  priors.is_none() ? nullptr : weights.data()};
    std::vector<NodeId> first;
    {
        py::gil_scoped_release release;
        first = forest.expand(wave.get(), children);
    }
    return array_of(std::move(first));
}

void backup(Forest& forest, py::handle trees, py::handle nodes, py::handle values, py::handle reduce) {
    const PyWave wave(trees, nodes);
    const auto v = checks::vector_of<double>("values", values, wave.trees.shape(0));
    checks::require_finite("values", v.data(), wave.get().size);
    const bavt::Backup mode = checks::reduce(reduce);
    py::gil_scoped_release release;
    forest.backup(wave.get(), v.data(), mode);
}

template <void (Forest::*change)(const bavt::Wave&)>
void change_wave(Forest& forest, py::handle trees, py::handle nodes) {
    const PyWave wave(trees, nodes);
    py::gil_scoped_release release;
    (forest.*change)(wave.get());
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
    return with_tree(forest, tree, [&](bavt::Tree& t) {
        if (id < 0 || id >= t.num_nodes()) {
            throw std::out_of_range("node: expected an id from 0 to " + std::to_string(t.num_nodes() - 1) + ", got " +
                                    std::to_string(id));
        }
        return use(t, static_cast<NodeId>(id));
    });
}

// A copy of one field of a tree's nodes.
template <typename T, typename Field>
py::array_t<T> copy_of(Forest& forest, py::handle tree, const Field* (*first)(const bavt::Tree&), size_t stride) {
    return array_of(with_tree(forest, tree, [&](const bavt::Tree& t) {
        std::vector<T> items(t.num_nodes());
        const char* at = reinterpret_cast<const char*>(first(t));
        for (size_t i = 0; i < items.size(); ++i) std::memcpy(&items[i], at + i * stride, sizeof(T));
        return items;
    }));
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
    forest
        .def(
            "add",
            [](Forest& f, py::handle v) {
                const double value = checks::number("root_value", v, -checks::kHuge, checks::kHuge, "a finite number");
                return without_gil([&] { return f.add(value); });
            },
            "root_value"_a = 1.0)
        .def(
            "finish",
            [](Forest& f, py::handle t) {
                const TreeId id = tree_id(t);
                without_gil([&] { f.finish(id); });
            },
            "tree"_a)
        .def(
            "drop",
            [](Forest& f, py::handle t) {
                const TreeId id = tree_id(t);
                without_gil([&] { f.drop(id); });
            },
            "tree"_a)
        .def(
            "reroot",
            [](Forest& f, py::handle t, py::handle n) {
                return array_of(with_node(f, t, n, [](bavt::Tree& tree, NodeId node) { return tree.reroot(node); }));
            },
            "tree"_a, "node"_a)
        .def(
            "best_path",
            [](Forest& f, py::handle t) {
                return with_tree(f, t, [](const bavt::Tree& tree) { return tree.best_path(); });
            },
            "tree"_a)
        .def(
            "children",
            [](Forest& f, py::handle t, py::handle n) {
                return with_node(f, t, n, [](const bavt::Tree& tree, NodeId node) { return tree.children(node); });
            },
            "tree"_a, "node"_a)
        .def(
            "save",
            [](Forest& f, const py::object& path) {
                const std::string file = checks::file_path(path);
                without_gil([&] { f.save(file); });
            },
            "path"_a)
        .def("to_bytes", &to_bytes)
        .def_static(
            "load",
            [](const py::object& path, py::handle threads) {
                const std::string file = checks::file_path(path);
                const unsigned count = thread_count(threads);
                const py::gil_scoped_release release;
                return Forest::load(file, count);
            },
            "path"_a, "threads"_a = py::none())
        .def_static(
            "from_bytes",
            [](const py::bytes& d, py::handle threads) {
                const auto data = std::string_view(d);
                const unsigned count = thread_count(threads);
                const py::gil_scoped_release release;
                return Forest::from_bytes(data.data(), data.size(), count);
            },
            "data"_a, "threads"_a = py::none());
    forest
        .def(
            "parents",
            [](Forest& f, py::handle t) {
                return copy_of<int32_t, NodeId>(f, t, [](const bavt::Tree& tree) { return tree.parents(); }, 4);
            },
            "tree"_a)
        .def(
            "visit_counts",
            [](Forest& f, py::handle t) {
                return copy_of<uint32_t, uint32_t>(
                    f, t, [](const bavt::Tree& tree) { return &tree.hot()->visits; }, kHot);
            },
            "tree"_a)
        .def(
            "value_sums",
            [](Forest& f, py::handle t) {
                return copy_of<double, double>(
                    f, t, [](const bavt::Tree& tree) { return &tree.hot()->value_sum; }, kHot);
            },
            "tree"_a)
        .def(
            "values",
            [](Forest& f, py::handle t) {
                return copy_of<double, double>(f, t, [](const bavt::Tree& tree) { return tree.values(); }, 8);
            },
            "tree"_a)
        .def(
            "depths",
            [](Forest& f, py::handle t) {
                return array_of(with_tree(f, t, [](const bavt::Tree& tree) { return tree.depths(); }));
            },
            "tree"_a)
        .def(
            "flags",
            [](Forest& f, py::handle t) {
                return copy_of<uint8_t, uint8_t>(f, t, [](const bavt::Tree& tree) { return tree.all_flags(); }, 1);
            },
            "tree"_a)
        .def(
            "tries",
            [](Forest& f, py::handle t) {
                return copy_of<uint8_t, uint8_t>(f, t, [](const bavt::Tree& tree) { return tree.tries(); }, 1);
            },
            "tree"_a);
    forest
        .def_property_readonly("num_nodes",
                               [](Forest& f) { return array_of(without_gil([&] { return f.num_nodes(); })); })
        .def_property_readonly("live",
                               [](Forest& f) {
                                   const auto live = array_of(without_gil([&] { return f.live(); }));
                                   return py::array(live.attr("astype")("bool"));
                               })
        .def_property_readonly("threads", &Forest::threads);
}
