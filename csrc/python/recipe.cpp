// The tree behind the recipe's search (bavt_fast/recipe): statistics in a native tree, texts beside it.
//
// The recipe joins the whole text of every child when it makes the child. Most children are never looked at again, so here
// an expansion keeps the parent's text and the steps, and a child's text is joined when it is asked for.
//
// A search has some fifty iterations of a microsecond, so that the tree is compact, as those of a forest are, and a call
// that is made in every iteration takes and returns nothing but Python's own objects.
//
// What Python would compute otherwise than the core is declined, and nothing has changed: rules that are overridden, texts
// that are not plain strings, numbers that are not plain or may overflow. Python goes on from there with objects.
#include <cmath>
#include <cstring>
#include <optional>
#include <vector>

#include "python/checks.h"
#include "tree/tree.h"

namespace py = pybind11;
using namespace pybind11::literals;

void bind_recipe(py::module_& m);

namespace {

namespace checks = bavt::py_checks;
using bavt::NodeId;

constexpr double kVisitEpsilon = 1e-8;      // what the recipe adds to every visit count it divides by
constexpr double kMaxMagnitude = 1e290;     // sums of up to here cannot overflow over any number of iterations
constexpr long long kMaxExact = 1LL << 53;  // every integer up to here is a float64

py::object checked(PyObject* made) {
    if (made == nullptr) throw py::error_already_set();
    return py::reinterpret_steal<py::object>(made);
}

// parent + "\n" + step, in one allocation.
py::object joined(py::handle parent, py::handle step) {
    const Py_ssize_t length = PyUnicode_GET_LENGTH(parent.ptr()), added = PyUnicode_GET_LENGTH(step.ptr());
    const Py_UCS4 highest = std::max(PyUnicode_MAX_CHAR_VALUE(parent.ptr()), PyUnicode_MAX_CHAR_VALUE(step.ptr()));
    py::object text = checked(PyUnicode_New(length + 1 + added, highest));
    PyUnicode_WRITE(PyUnicode_KIND(text.ptr()), PyUnicode_DATA(text.ptr()), length, '\n');
    if (PyUnicode_CopyCharacters(text.ptr(), 0, parent.ptr(), 0, length) < 0 ||
        PyUnicode_CopyCharacters(text.ptr(), length + 1, step.ptr(), 0, added) < 0) {
        throw py::error_already_set();
    }
    return text;
}

// A number that the core adds and multiplies exactly as Python does: ints, and floats of float64 that cannot overflow.
std::optional<double> plain_number(py::handle object) {
    double value;
    if (PyFloat_CheckExact(object.ptr()) ||
        (PyFloat_Check(object.ptr()) && std::strcmp(Py_TYPE(object.ptr())->tp_name, "numpy.float64") == 0)) {
        value = PyFloat_AS_DOUBLE(object.ptr());
    } else if (PyLong_CheckExact(object.ptr()) || PyBool_Check(object.ptr())) {
        value = PyLong_AsDouble(object.ptr());
        if (value == -1.0 && PyErr_Occurred() != nullptr) {
            PyErr_Clear();
            return std::nullopt;
        }
    } else {
        return std::nullopt;
    }
    if (!(std::abs(value) <= kMaxMagnitude)) return std::nullopt;
    return value;
}

// A budget, which may have become negative: an int that is a float64 too.
std::optional<double> plain_count(py::handle object) {
    if (!PyLong_CheckExact(object.ptr())) return std::nullopt;
    int overflow = 0;
    const long long value = PyLong_AsLongLongAndOverflow(object.ptr(), &overflow);
    if (overflow != 0 || value > kMaxExact || value < -kMaxExact) return std::nullopt;
    return static_cast<double>(value);
}

// Whether a method of `object` is still `function`: neither a subclass nor a patch has replaced it.
bool has_method(py::handle object, PyObject* name, py::handle function) {
    PyObject* const method = PyObject_GetAttr(object.ptr(), name);
    if (method == nullptr) {
        if (PyErr_ExceptionMatches(PyExc_AttributeError) == 0) throw py::error_already_set();
        PyErr_Clear();
        return false;
    }
    const bool same = PyMethod_Check(method) && PyMethod_GET_FUNCTION(method) == function.ptr() &&
                      PyMethod_GET_SELF(method) == object.ptr();
    Py_DECREF(method);
    return same;
}

class RecipeTree {
   public:
    RecipeTree(py::handle question, py::handle max_depth, py::object score, py::object best_child)
        : tree_(options()),
          max_depth_(depth_limit(max_depth)),
          score_(std::move(score)),
          best_child_(std::move(best_child)) {
        if (!PyUnicode_CheckExact(question.ptr())) checks::bad_type("question", "a str", question);
        leaf_text_ = question_ = py::reinterpret_borrow<py::object>(question);
        expansions_.push_back({bavt::kNone, bavt::kRoot, 0, 0.0, py::none(), py::none()});
        expansion_of_.push_back(0);
    }

    // The text of the node to expand; None at the depth limit; NotImplemented where it is Python that must select.
    py::object select(py::handle rule, py::handle remaining, py::handle total) {
        bavt::SelectArgs args;
        args.max_depth = max_depth_;
        if (tree_.num_nodes() > 1) {  // the recipe asks no rule for the root
            static PyObject* const best_child_name = PyUnicode_InternFromString("select_best_child");
            static PyObject* const score_name = PyUnicode_InternFromString("compute_ucb_score");
            static PyObject* const exploration_name = PyUnicode_InternFromString("exploration_constant");
            if (!has_method(rule, best_child_name, best_child_) || !has_method(rule, score_name, score_))
                return declined();
            const auto exploration = plain_number(checked(PyObject_GetAttr(rule.ptr(), exploration_name)));
            const auto left = plain_count(remaining), all = plain_count(total);
            if (!exploration || !left || !all || *all < 0.0) return declined();
            args.exploration = *exploration, args.remaining = *left, args.total = *all;
        }
        leaf_ = tree_.select(bavt::Policy::kUcb, args);
        if (depth_of(leaf_) >= max_depth_) return py::none();
        leaf_text_ = text_of(leaf_);
        return leaf_text_;
    }

    // A child per step below what was selected. The first one's text; None, and no children, where `steps` is not a list
    // or a tuple of at least one plain str.
    py::object expand(py::handle steps) {
        if (!PyList_CheckExact(steps.ptr()) && !PyTuple_CheckExact(steps.ptr())) return py::none();
        py::object kept = checked(PySequence_Tuple(steps.ptr()));  // models may use their list again
        const Py_ssize_t count = PyTuple_GET_SIZE(kept.ptr());
        for (Py_ssize_t i = 0; i < count; ++i) {
            if (!PyUnicode_CheckExact(PyTuple_GET_ITEM(kept.ptr(), i))) return py::none();
        }
        if (count == 0) return py::none();
        py::object text = joined(leaf_text_, PyTuple_GET_ITEM(kept.ptr(), 0));
        if (values_.size() < static_cast<size_t>(count)) values_.resize(static_cast<size_t>(count));
        const auto children = static_cast<uint32_t>(std::min<Py_ssize_t>(count, bavt::kNone));
        const NodeId first = tree_.expand(leaf_, values_.data(), nullptr, nullptr, children);
        expansion_of_.insert(expansion_of_.end(), children, static_cast<uint32_t>(expansions_.size()));
        expansions_.push_back({leaf_, first, depth_of(leaf_) + 1, 0.0, leaf_text_, std::move(kept)});
        return text;
    }

    // Adds a value and a visit to the newest first child and all its ancestors; false, and nothing has changed, where Python
    // must add it.
    bool backup(py::handle value) {
        const auto number = plain_number(value);
        if (!number) return false;
        tree_.backup(expansions_.back().first, *number, bavt::Backup::kMean);
        expansions_.back().residual = *number;
        return true;
    }

    // Along the descent from the root by the highest mean value, the first child on ties.
    py::list best_texts() const {
        py::list texts;
        for (std::vector<NodeId> children = tree_.children(bavt::kRoot); !children.empty();) {
            NodeId best = children[0];
            for (const NodeId child : children) {
                if (mean_of(child) > mean_of(best)) best = child;
            }
            texts.append(text_of(best));
            children = tree_.children(best);
        }
        return texts;
    }

    // (parent's id or None, text, visit count, value sum, residual value) of every node, in the order of their ids.
    py::list nodes() const {
        py::list rows;
        for (NodeId node = 0; node < tree_.num_nodes(); ++node) {
            const Expansion& expansion = expansions_[expansion_of_[node]];
            const bavt::Hot& hot = tree_.hot()[node];
            const py::object parent = node == bavt::kRoot ? py::none() : py::object(py::int_(expansion.parent));
            const double residual = node == expansion.first ? expansion.residual : 0.0;
            rows.append(py::make_tuple(parent, text_of(node), hot.visits, hot.value_sum, residual));
        }
        return rows;
    }

    NodeId leaf() const { return leaf_; }

   private:
    // Children that were made together. The first is the only one that is scored.
    struct Expansion {
        NodeId parent, first;
        uint32_t depth;
        double residual;
        py::object parent_text, steps;
    };

    static bavt::TreeOptions options() {
        static const auto powers = std::make_shared<const bavt::DecayPowers>(1.0);
        bavt::TreeOptions options;
        options.compact = true;
        options.powers = powers;
        return options;
    }
    static uint32_t depth_limit(py::handle object) {
        return static_cast<uint32_t>(checks::integer("max_depth", object, 0, UINT32_MAX, "an int from 0 to 2**32 - 1"));
    }
    static py::object declined() { return py::reinterpret_borrow<py::object>(Py_NotImplemented); }

    uint32_t depth_of(NodeId node) const { return expansions_[expansion_of_[node]].depth; }
    double mean_of(NodeId node) const {
        return tree_.hot()[node].value_sum / (static_cast<double>(tree_.hot()[node].visits) + kVisitEpsilon);
    }
    py::object text_of(NodeId node) const {
        if (node == bavt::kRoot) return question_;
        const Expansion& expansion = expansions_[expansion_of_[node]];
        return joined(expansion.parent_text, PyTuple_GET_ITEM(expansion.steps.ptr(), node - expansion.first));
    }

    bavt::Tree tree_;
    uint32_t max_depth_;
    py::object score_, best_child_;
    py::object question_;
    NodeId leaf_ = bavt::kRoot;
    py::object leaf_text_;
    std::vector<Expansion> expansions_;
    std::vector<uint32_t> expansion_of_;  // by node
    std::vector<double> values_;          // zeros: the recipe's rule looks at value sums and visits alone
};

}  // namespace

void bind_recipe(py::module_& m) {
    py::class_<RecipeTree>(m, "RecipeTree")
        .def(py::init<py::handle, py::handle, py::object, py::object>(), "question"_a, "max_depth"_a, "score"_a,
             "best_child"_a)
        .def("select", &RecipeTree::select, "rule"_a, "remaining"_a, "total"_a)
        .def("expand", &RecipeTree::expand, "steps"_a)
        .def("backup", &RecipeTree::backup, "value"_a)
        .def("best_texts", &RecipeTree::best_texts)
        .def("nodes", &RecipeTree::nodes)
        .def_property_readonly("leaf", &RecipeTree::leaf);
}
