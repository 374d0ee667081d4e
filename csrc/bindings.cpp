// The Python surface of the native core: checks and converts arguments, no logic.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cmath>
#include <limits>
#include <optional>
#include <string>

#include "tree.h"

namespace py = pybind11;
using namespace pybind11::literals;

void bind_countdown(py::module_& m);

namespace {

using bavt::NodeId;
using bavt::Tree;

[[noreturn]] void fail(const std::string& message) { throw py::value_error(message); }

double number(const char* name, const py::handle& object, const char* expected) {
    if (PyBool_Check(object.ptr()) || (!PyFloat_Check(object.ptr()) && !PyIndex_Check(object.ptr()) &&
                                       !PyNumber_Check(object.ptr()))) {
        throw py::type_error(std::string(name) + ": expected " + expected + ", got " +
                             py::repr(object).cast<std::string>());
    }
    const double value = PyFloat_AsDouble(object.ptr());
    if (value == -1.0 && PyErr_Occurred() != nullptr) throw py::error_already_set();
    return value;
}

double checked(const char* name, const py::handle& object, double low, double high, const char* expected) {
    const double value = number(name, object, expected);
    if (!(value >= low && value <= high)) {
        fail(std::string(name) + ": expected " + expected + ", got " + py::repr(object).cast<std::string>());
    }
    return value;
}

constexpr double kHuge = std::numeric_limits<double>::max();

NodeId checked_node(const Tree& tree, int64_t node) {
    if (node < 0 || node >= tree.num_nodes()) {
        throw py::index_error("node: expected an id from 0 to " + std::to_string(tree.num_nodes() - 1) + ", got " +
                              std::to_string(node));
    }
    return static_cast<NodeId>(node);
}

bavt::Policy checked_policy(const std::string& policy) {
    if (policy == "power") return bavt::Policy::kPower;
    if (policy == "best_first") return bavt::Policy::kBestFirst;
    if (policy == "ucb") return bavt::Policy::kUcb;
    if (policy == "uct") return bavt::Policy::kUct;
    if (policy == "puct") return bavt::Policy::kPuct;
    fail("policy: expected 'power', 'best_first', 'ucb', 'uct' or 'puct', got '" + policy + "'");
}

template <typename T>
py::array_t<T, py::array::c_style> vector_of(const char* name, const py::object& object, py::ssize_t count) {
    auto array = py::array_t<T, py::array::c_style | py::array::forcecast>::ensure(object);
    if (!array) {
        PyErr_Clear();
        fail(std::string(name) + ": expected numbers of shape (m,), got " + py::repr(object).cast<std::string>());
    }
    if (array.ndim() != 1 || (count >= 0 && array.shape(0) != count)) {
        fail(std::string(name) + ": expected shape (" + (count < 0 ? std::string("m") : std::to_string(count)) +
             ",), got " + py::str(array.attr("shape")).cast<std::string>());
    }
    return array;
}

std::unique_ptr<Tree> make_tree(const py::object& seed, const py::object& max_nodes, const py::object& root_value,
                                const py::object& decay) {
    if (PyBool_Check(seed.ptr()) || !PyLong_Check(seed.ptr())) {
        throw py::type_error("seed: expected an int, got " + py::repr(seed).cast<std::string>());
    }
    const uint64_t bits = PyLong_AsUnsignedLongLongMask(seed.ptr());
    double limit = bavt::kMaxNodes;
    if (!max_nodes.is_none()) {
        limit = checked("max_nodes", max_nodes, 1, bavt::kMaxNodes, "an int from 1 to 100,000,000, or None");
    }
    const double value = checked("root_value", root_value, -kHuge, kHuge, "a finite number");
    const double factor = checked("decay", decay, std::numeric_limits<double>::min(), 1.0, "a number in (0, 1]");
    return std::make_unique<Tree>(bits, static_cast<uint32_t>(limit), value, factor);
}

int64_t expand(Tree& tree, int64_t node, const py::object& values, const py::object& terminal,
               const py::object& priors) {
    const NodeId id = checked_node(tree, node);
    const auto v = vector_of<double>("values", values, -1);
    if (v.shape(0) == 0) fail("values: expected at least one child, got none; close() the node instead");
    for (py::ssize_t i = 0; i < v.shape(0); ++i) {
        if (!std::isfinite(v.at(i))) fail("values: expected finite numbers, got " + std::to_string(v.at(i)));
    }
    py::array_t<uint8_t> ends;
    if (!terminal.is_none()) ends = vector_of<bool>("terminal", terminal, v.shape(0)).attr("view")("uint8");
    py::array_t<float> weights;
    if (!priors.is_none()) {
        weights = vector_of<float>("priors", priors, v.shape(0));
        for (py::ssize_t i = 0; i < weights.shape(0); ++i) {
            if (!(weights.at(i) >= 0.0f) || !std::isfinite(weights.at(i))) {
                fail("priors: expected finite numbers >= 0, got " + std::to_string(weights.at(i)));
            }
        }
    }
    return tree.expand(id, v.data(), terminal.is_none() ? nullptr : ends.data(),
                       priors.is_none() ? nullptr : weights.data(), static_cast<uint32_t>(v.shape(0)));
}

int64_t select_node(Tree& tree, const std::string& policy, const py::object& remaining, const py::object& total,
               const py::object& exploration, const py::object& max_depth) {
    bavt::SelectArgs args;
    args.total = checked("total", total, std::numeric_limits<double>::min(), kHuge, "a finite number > 0");
    args.remaining = checked("remaining", remaining, 0.0, kHuge, "a finite number >= 0");
    args.exploration = checked("exploration", exploration, -kHuge, kHuge, "a finite number");
    if (!max_depth.is_none()) {
        args.max_depth = static_cast<uint32_t>(checked("max_depth", max_depth, 0, 0xFFFF, "an int from 0 to 65,535"));
    }
    const NodeId node = tree.select(checked_policy(policy), args);
    return node == bavt::kNone ? -1 : static_cast<int64_t>(node);
}

void backup(Tree& tree, int64_t node, const py::object& value, const std::string& reduce) {
    const NodeId id = checked_node(tree, node);
    const double v = checked("value", value, -kHuge, kHuge, "a finite number");
    if (reduce != "mean" && reduce != "max") fail("reduce: expected 'mean' or 'max', got '" + reduce + "'");
    tree.backup(id, v, reduce == "mean" ? bavt::Backup::kMean : bavt::Backup::kMax);
}

void set_flag(Tree& tree, int64_t node, bavt::Flag flag, bool on) { tree.set_flag(checked_node(tree, node), flag, on); }

// A read-only view of one field of every node: the tree stays alive with it, and its memory never moves.
template <typename T, typename Field>
py::array_t<T> view(const py::object& self, const Field* first, size_t stride) {
    const auto& tree = self.cast<const Tree&>();
    py::array_t<T> array({static_cast<py::ssize_t>(tree.num_nodes())}, {static_cast<py::ssize_t>(stride)},
                         reinterpret_cast<const T*>(first), self);
    array.attr("flags").attr("writeable") = false;
    return array;
}

const Tree& of(const py::object& self) { return self.cast<const Tree&>(); }

}  // namespace

PYBIND11_MODULE(_core, m) {
    m.doc() = "Native core: the search tree and the exact Countdown solver.";
    py::register_exception<bavt::CapacityError>(m, "CapacityError", PyExc_RuntimeError);
    bind_countdown(m);

    py::class_<Tree> tree(m, "Tree");
    tree.def(py::init(&make_tree), "seed"_a = 0, "max_nodes"_a = py::none(), "root_value"_a = 1.0, "decay"_a = 0.85)
        .def("expand", &expand, "node"_a, "values"_a, "terminal"_a = py::none(), "priors"_a = py::none())
        .def("select", &select_node, "policy"_a = "power", "remaining"_a = 1.0, "total"_a = 1.0, "exploration"_a = 1.0,
             "max_depth"_a = py::none())
        .def("backup", &backup, "node"_a, "value"_a, "reduce"_a = "mean")
        .def("best_path", &Tree::best_path)
        .def("children", [](const Tree& t, int64_t n) { return t.children(checked_node(t, n)); }, "node"_a)
        .def("penalize", [](Tree& t, int64_t n) { t.penalize(checked_node(t, n)); }, "node"_a)
        .def("prune", [](Tree& t, int64_t n) { t.prune(checked_node(t, n)); }, "node"_a)
        .def("close", [](Tree& t, int64_t n) { set_flag(t, n, bavt::kClosed, true); }, "node"_a)
        .def("mark_terminal", [](Tree& t, int64_t n) { set_flag(t, n, bavt::kTerminal, true); }, "node"_a)
        .def("mark_in_flight", [](Tree& t, int64_t n) { set_flag(t, n, bavt::kInFlight, true); }, "node"_a)
        .def("unmark_in_flight", [](Tree& t, int64_t n) { set_flag(t, n, bavt::kInFlight, false); }, "node"_a);

    tree.def_property_readonly("num_nodes", &Tree::num_nodes)
        .def_property_readonly("max_nodes", &Tree::max_nodes)
        .def_property_readonly(
            "parents", [](const py::object& s) { return view<int32_t>(s, &of(s).links()->parent, sizeof(bavt::Links)); })
        .def_property_readonly(
            "visit_counts", [](const py::object& s) { return view<uint32_t>(s, &of(s).hot()->visits, sizeof(bavt::Hot)); })
        .def_property_readonly(
            "value_sums", [](const py::object& s) { return view<double>(s, &of(s).hot()->value_sum, sizeof(bavt::Hot)); })
        .def_property_readonly(
            "depths", [](const py::object& s) { return view<uint16_t>(s, &of(s).hot()->depth, sizeof(bavt::Hot)); })
        .def_property_readonly(
            "flags", [](const py::object& s) { return view<uint8_t>(s, &of(s).hot()->flags, sizeof(bavt::Hot)); })
        .def_property_readonly("values", [](const py::object& s) { return view<double>(s, of(s).values(), 8); })
        .def_property_readonly("tries", [](const py::object& s) { return view<uint16_t>(s, of(s).tries(), 2); });
    tree.attr("TERMINAL") = static_cast<int>(bavt::kTerminal);
    tree.attr("PRUNED") = static_cast<int>(bavt::kPruned);
    tree.attr("CLOSED") = static_cast<int>(bavt::kClosed);
    tree.attr("IN_FLIGHT") = static_cast<int>(bavt::kInFlight);
}
