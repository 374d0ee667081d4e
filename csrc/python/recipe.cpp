// The tree behind the recipe's search (bavt_fast/recipe): statistics in a native tree, texts beside it.
//
// The recipe joins the whole text of every child when it makes the child. Most children are never looked at again, so here
// an expansion keeps the parent's text and the steps, and a child's text is joined when it is asked for.
//
// A search has some fifty iterations of a microsecond, so that the tree is compact, as those of a forest are, and the
// iterations turn here.
//
// What Python would compute otherwise than the core is left to it, and nothing has changed: rules that are overridden,
// texts that are not plain strings, numbers that are not plain or may overflow. Python goes on from there with objects.
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

py::object attribute(py::handle object, PyObject* name) { return checked(PyObject_GetAttr(object.ptr(), name)); }

// Names that are looked up in every iteration.
struct Names {
    PyObject* const best_child = PyUnicode_InternFromString("select_best_child");
    PyObject* const score = PyUnicode_InternFromString("compute_ucb_score");
    PyObject* const exploration = PyUnicode_InternFromString("exploration_constant");
    PyObject* const total = PyUnicode_InternFromString("total_budget");
    PyObject* const remaining = PyUnicode_InternFromString("remaining_budget");
    PyObject* const rule = PyUnicode_InternFromString("ucb");
    PyObject* const model = PyUnicode_InternFromString("model");
    PyObject* const critic = PyUnicode_InternFromString("critic_head");
    PyObject* const propose = PyUnicode_InternFromString("generate_next_steps");
    PyObject* const estimate = PyUnicode_InternFromString("estimate_residual_value");
    PyObject* const keywords = Py_BuildValue("(s)", "num_candidates");

    static const Names& all() {
        static const Names names;
        return names;
    }
};

class RecipeTree {
   public:
    RecipeTree(py::handle question, py::handle max_depth, py::object score, py::object best_child, py::object as_tuple)
        : tree_(options()),
          max_depth_(depth_limit(max_depth)),
          score_(std::move(score)),
          best_child_(std::move(best_child)),
          as_tuple_(std::move(as_tuple)) {
        if (!PyUnicode_CheckExact(question.ptr())) checks::bad_type("question", "a str", question);
        leaf_text_ = question_ = py::reinterpret_borrow<py::object>(question);
        expansions_.push_back({bavt::kNone, bavt::kRoot, 0, 0.0, py::none(), py::none()});
        expansion_of_.push_back(0);
    }

    // Iterations of a BudgetAwareValueTreeSearch, with `count` units of budget from the first on. Returns the number of
    // the last one, what of it is left to Python ("select", "steps", "value"; None where the search has ended), and what
    // model or critic gave.
    py::tuple search(py::handle search, long count, py::handle candidates) {
        const Names& names = Names::all();
        for (long t = 0; t < count; ++t) {
            if (PyErr_CheckSignals() < 0) throw py::error_already_set();
            const py::object remaining =
                checked(PyNumber_Subtract(attribute(search, names.total).ptr(), py::int_(t).ptr()));
            if (PyObject_SetAttr(search.ptr(), names.remaining, remaining.ptr()) < 0) throw py::error_already_set();
            if (!select(search)) return left(t, "select", py::none());
            if (depth_of(leaf_) >= max_depth_) return left(t, nullptr, py::none());
            py::object steps = proposed(attribute(search, names.model), candidates);
            if (!PyList_CheckExact(steps.ptr())) steps = checked(PyObject_CallOneArg(as_tuple_.ptr(), steps.ptr()));
            py::object kept = checked(PySequence_Tuple(steps.ptr()));  // models may use their list again
            if (PyTuple_GET_SIZE(kept.ptr()) == 0) return left(t, nullptr, py::none());
            if (!are_plain(kept)) return left(t, "steps", steps);
            const py::object text = expand(std::move(kept));
            const py::object value = estimated(attribute(search, names.critic), text);
            if (!backup(value)) return left(t, "value", value);
        }
        return left(count, nullptr, py::none());
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
    static py::tuple left(long iteration, const char* stage, const py::object& given) {
        return py::make_tuple(iteration, stage, given);
    }

    // Descends to the node to expand; false where it is Python that must.
    bool select(py::handle search) {
        const Names& names = Names::all();
        bavt::SelectArgs args;
        args.max_depth = max_depth_;
        if (tree_.num_nodes() > 1) {  // the recipe asks no rule for the root
            const py::object rule = attribute(search, names.rule);
            if (!has_method(rule, names.best_child, best_child_) || !has_method(rule, names.score, score_))
                return false;
            const auto exploration = plain_number(attribute(rule, names.exploration));
            const auto remaining = plain_count(attribute(search, names.remaining));
            const auto total = plain_count(attribute(search, names.total));
            if (!exploration || !remaining || !total || *total < 0.0) return false;
            args.exploration = *exploration, args.remaining = *remaining, args.total = *total;
        }
        leaf_ = tree_.select(bavt::Policy::kUcb, args);
        if (depth_of(leaf_) < max_depth_) leaf_text_ = text_of(leaf_);
        return true;
    }

    // model.generate_next_steps(text, num_candidates=candidates)
    py::object proposed(const py::object& model, py::handle candidates) const {
        PyObject* const given[] = {model.ptr(), leaf_text_.ptr(), candidates.ptr()};
        const Names& names = Names::all();
        return checked(PyObject_VectorcallMethod(names.propose, given, 2, names.keywords));
    }

    // critic_head.estimate_residual_value(text)
    static py::object estimated(const py::object& critic, const py::object& text) {
        PyObject* const given[] = {critic.ptr(), text.ptr()};
        return checked(PyObject_VectorcallMethod(Names::all().estimate, given, 2, nullptr));
    }

    static bool are_plain(py::handle texts) {
        for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(texts.ptr()); ++i) {
            if (!PyUnicode_CheckExact(PyTuple_GET_ITEM(texts.ptr(), i))) return false;
        }
        return true;
    }

    // A child per step below what was selected. The first one's text.
    py::object expand(py::object steps) {
        py::object text = joined(leaf_text_, PyTuple_GET_ITEM(steps.ptr(), 0));
        const auto count = static_cast<size_t>(PyTuple_GET_SIZE(steps.ptr()));
        if (values_.size() < count) values_.resize(count);
        const auto children = static_cast<uint32_t>(std::min<size_t>(count, bavt::kNone));
        const NodeId first = tree_.expand(leaf_, values_.data(), nullptr, nullptr, children);
        expansion_of_.insert(expansion_of_.end(), children, static_cast<uint32_t>(expansions_.size()));
        expansions_.push_back({leaf_, first, depth_of(leaf_) + 1, 0.0, leaf_text_, std::move(steps)});
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
    py::object score_, best_child_, as_tuple_;
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
        .def(py::init<py::handle, py::handle, py::object, py::object, py::object>(), "question"_a, "max_depth"_a,
             "score"_a, "best_child"_a, "as_tuple"_a)
        .def("search", &RecipeTree::search, "search"_a, "count"_a, "candidates"_a)
        .def("best_texts", &RecipeTree::best_texts)
        .def("nodes", &RecipeTree::nodes)
        .def_property_readonly("leaf", &RecipeTree::leaf);
}
