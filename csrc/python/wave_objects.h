// The Python objects that a wave is made of, read and made through their slots.
//
// A wave's loops (waves_admit.cpp, waves_grow.cpp, waves.cpp) are what a search costs beside its tree, its task and its
// models. Looking an attribute up by its name takes as long as all else that they do with it. So the classes that they
// meet keep what is read there in `__slots__`, and a slot's place in the object is looked up once, when the package is
// imported.
#pragma once

#include <pybind11/pybind11.h>

#include <vector>

#include "python/columns.h"

namespace bavt::waves {

namespace py = pybind11;

// One of a class's `__slots__`.
class Member {
   public:
    Member() = default;
    Member(py::handle cls, const char* name);

    // Borrowed; throws AttributeError where it was deleted.
    PyObject* get(PyObject* object) const {
        PyObject* value = at(object);
        if (value == nullptr) fail();
        return value;
    }
    // Takes over the reference.
    void set(PyObject* object, PyObject* value) const {
        PyObject*& place = at(object);
        PyObject* before = place;
        place = value;
        Py_XDECREF(before);  // last: it may run Python code
    }
    void prefetch(PyObject* object) const { __builtin_prefetch(&at(object)); }
    // For what lies behind it to be fetched ahead: null where there is none.
    PyObject* peek(PyObject* object) const { return at(object); }
    PyObject* name() const { return name_; }
    bool is(const Member& other) const { return offset_ == other.offset_; }

   private:
    PyObject*& at(PyObject* object) const {
        return *reinterpret_cast<PyObject**>(reinterpret_cast<char*>(object) + offset_);
    }
    [[noreturn]] void fail() const;

    Py_ssize_t offset_ = 0;
    PyObject* name_ = nullptr;  // interned
};

// Classes, their slots, and the functions of `bavt_fast/waves.py` for what is unusual.
struct Objects {
    PyObject* engine;
    PyTypeObject *beside, *rules, *node, *step, *request, *description, *pending;
    struct {
        Member nodes, keys, refused, rules, untimed, observer;
    } of_search;
    struct {
        Member apply, key, describe, sampling, counts_tried, prices_cached;
    } of_rules;
    struct {
        Member state, prompt, parent, step, value, answer, tried;
    } of_node;
    struct {
        Member text, tokens, finish_reason, prompt_tokens, tool_calls, cost, seconds, hidden, cached_tokens;
    } of_step;
    std::vector<Member> step_fields;  // all of them
    struct {
        Member slots, tickets, parents, counts, nodes, terminal, verified, least, slim, search;
    } of_pending;
    PyObject *whole[2], *cut[2];  // finish reasons
    PyObject *duplicate, *invalid, *refuted, *nothing;
    PyObject *settings, *seconds_left, *mend, *admitted, *cancelled, *strip;  // names
    PyObject* line_break;
    PyObject *check, *other_costs, *probability_of, *checked_description, *without_hidden, *of_task, *fail,
        *described_many, *note_growth;
};

extern Objects objects;

// Keeps what `bavt_fast/waves.py` names, when it is imported.
void read_objects(const py::dict& names);

inline PyObject* new_ref(PyObject* object) {
    Py_INCREF(object);
    return object;
}

inline py::object stolen(PyObject* object) {
    if (object == nullptr) throw py::error_already_set();
    return py::reinterpret_steal<py::object>(object);
}

inline py::object int_of(uint64_t number) { return stolen(PyLong_FromUnsignedLongLong(number)); }

inline py::object borrowed(PyObject* object) { return py::reinterpret_borrow<py::object>(object); }

// By an interned name: of a name that is made anew each time the interpreter's caches keep every one.
inline py::object attribute(PyObject* object, PyObject* name) { return stolen(PyObject_GetAttr(object, name)); }

// A call with arguments by place.
template <typename... Arguments>
py::object call(PyObject* function, Arguments... arguments) {
    PyObject* given[] = {nullptr, arguments...};
    constexpr size_t kSize = sizeof...(Arguments);
    return stolen(PyObject_Vectorcall(function, given + 1, kSize | PY_VECTORCALL_ARGUMENTS_OFFSET, nullptr));
}

// The search in a slot of the engine, borrowed from the dictionary.
PyObject* search_in(py::handle searches, uint32_t slot);

// What was found there, borrowed; throws where it is null, or not a search.
PyObject* checked_search(PyObject* search, uint32_t slot);

// Of a search's task and settings, borrowed: apply, key, describe, sampling or counts_tried.
PyObject* rule_of(PyObject* search, const Member& rule);

// The node of that number, borrowed from the list, or from the search.
PyObject* node_of(PyObject* nodes, size_t number);
PyObject* node_in(PyObject* search, size_t number);

inline constexpr size_t kAhead = 3;  // asks that memory is fetched ahead of the work on them

// Fetches what will be touched of a search, each some asks ahead of the next one.
inline void fetch_search(PyObject* search) { objects.of_search.nodes.prefetch(search); }
void fetch_parts(PyObject* search);
void fetch_entry(PyObject* search, size_t number);
void fetch_end(PyObject* search);  // where its next node's entry will lie
void fetch_node(PyObject* search, size_t number);
void fetch_state(PyObject* search, size_t number);

// Of a generator's answers: a list, where its items lie, a step, and its text.
inline void fetch_items(PyObject* list) {
    if (PyList_CheckExact(list)) __builtin_prefetch(reinterpret_cast<PyListObject*>(list)->ob_item);
}
inline void fetch_object(PyObject* object) {
    __builtin_prefetch(object);
    __builtin_prefetch(reinterpret_cast<char*>(object) + 64);
}
inline void fetch_text(PyObject* step) {
    if (Py_TYPE(step) == objects.step && objects.of_step.text.peek(step) != nullptr) {
        fetch_object(objects.of_step.text.peek(step));
    }
}

// A node that is not scored yet. References are not taken over. Its parent is looked at first, see `untrack`.
py::object new_node(PyObject* state, PyObject* prompt, PyObject* parent, PyObject* step);

// Whether the garbage collector looks at an object. Tuples of what it does not look at it forgets when it meets them.
bool is_tracked(PyObject* object);

// Hides a node from the garbage collector where it can be part of no cycle, as Python does with tuples: nothing that it
// leads to (its state, its parent, its step, what was tried) is anything that the collector looks at. Thousands of searches
// have millions of nodes, and looking at them takes the collector as long as all else takes the search. Returns whether it
// is hidden.
bool untrack(PyObject* node);

// Back into its sight.
void track(PyObject* object);

// The same for a step: of the class itself, and with nothing in it but texts and numbers.
bool untrack_step(PyObject* step);

// Before a node comes to hold a step that may lead anywhere: all nodes of its search are in sight again.
void reveal(PyObject* search);

// Appends to a list that may be hidden: it is, as long as all its items are.
void append_tracked(PyObject* list, PyObject* item);

// Appends to the nodes of a search.
void append_node(PyObject* entries, PyObject* node);

// What was raised, where it is an Exception; another one is thrown on.
py::object exception_in(py::error_already_set& error);

}  // namespace bavt::waves
