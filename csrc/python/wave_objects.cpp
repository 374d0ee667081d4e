#include "python/wave_objects.h"

#include <structmember.h>

namespace bavt::waves {

Objects objects;

Member::Member(py::handle cls, const char* name) : name_(PyUnicode_InternFromString(name)) {
    const py::object member = cls.attr(name);
    if (Py_TYPE(member.ptr()) != &PyMemberDescr_Type) {
        throw py::type_error(std::string(name) + ": expected a slot, got " + py_checks::text_of(member));
    }
    offset_ = reinterpret_cast<PyMemberDescrObject*>(member.ptr())->d_member->offset;
}

void Member::fail() const {
    PyErr_Format(PyExc_AttributeError, "%U was deleted", name_);
    throw py::error_already_set();
}

namespace {

PyTypeObject* class_in(const py::dict& names, const char* name) {
    const py::object found = names[name];
    if (!PyType_Check(found.ptr())) py_checks::bad_type(name, "a class", found);
    return reinterpret_cast<PyTypeObject*>(new_ref(found.ptr()));  // for good, as all here
}

PyObject* function_in(const py::dict& names, const char* name) { return new_ref(py::object(names[name]).ptr()); }

PyObject* text_of(const char* text) { return stolen(PyUnicode_InternFromString(text)).release().ptr(); }

py::handle handle(PyTypeObject* cls) { return reinterpret_cast<PyObject*>(cls); }

void read_slots(Objects& o) {
    const py::handle search = handle(o.beside), node = handle(o.node), step = handle(o.step);
    const py::handle pending = handle(o.pending);
    const py::handle rules = handle(o.rules);
    o.of_search = {{search, "nodes"}, {search, "keys"},    {search, "refused"},
                   {search, "rules"}, {search, "untimed"}, {search, "observer"}};
    o.of_rules = {{rules, "apply"},    {rules, "key"},          {rules, "describe"},
                  {rules, "sampling"}, {rules, "counts_tried"}, {rules, "prices_cached"}};
    o.of_node = {{node, "state"}, {node, "prompt"}, {node, "parent"}, {node, "step"},
                 {node, "value"}, {node, "answer"}, {node, "_tried"}};
    o.of_step = {{step, "text"},          {step, "tokens"},     {step, "finish_reason"},
                 {step, "prompt_tokens"}, {step, "tool_calls"}, {step, "cost"},
                 {step, "seconds"},       {step, "hidden"},     {step, "cached_tokens"}};
    for (const auto& field : step.attr("__slots__")) {
        o.step_fields.emplace_back(step, py::cast<std::string>(field).c_str());
    }
    o.of_pending = {{pending, "slots"}, {pending, "tickets"},  {pending, "parents"},  {pending, "counts"},
                    {pending, "nodes"}, {pending, "terminal"}, {pending, "verified"}, {pending, "least"},
                    {pending, "slim"},  {pending, "search"}};
}

}  // namespace

void read_objects(const py::dict& names) {
    Objects o{};
    o.engine = function_in(names, "Engine");
    o.beside = class_in(names, "Beside"), o.rules = class_in(names, "Rules");
    o.node = class_in(names, "Node"), o.step = class_in(names, "Step");
    o.request = class_in(names, "StepRequest"), o.description = class_in(names, "Description");
    o.pending = class_in(names, "Pending");
    read_slots(o);
    o.whole[0] = text_of("delimiter"), o.whole[1] = text_of("end");
    o.cut[0] = text_of("limit"), o.cut[1] = text_of("deadline");
    o.duplicate = text_of("duplicate"), o.invalid = text_of("invalid"), o.refuted = text_of("refuted");
    o.nothing = PyTuple_New(0);
    o.settings = text_of("settings"), o.seconds_left = text_of("seconds_left"), o.mend = text_of("mend");
    o.admitted = text_of("admitted"), o.cancelled = text_of("cancelled"), o.strip = text_of("strip");
    o.line_break = text_of("\n");
    o.check = function_in(names, "_check"), o.other_costs = function_in(names, "_other_costs");
    o.probability_of = function_in(names, "probability_of");
    o.checked_description = function_in(names, "checked_description");
    o.without_hidden = function_in(names, "without_hidden"), o.of_task = function_in(names, "_of_task");
    o.fail = function_in(names, "fail"), o.described_many = function_in(names, "described_many");
    o.note_growth = function_in(names, "note_growth");
    objects = o;
}

PyObject* checked_search(PyObject* search, uint32_t slot) {
    if (search == nullptr) {
        if (PyErr_Occurred() == nullptr) PyErr_SetObject(PyExc_KeyError, int_of(slot).ptr());
        throw py::error_already_set();
    }
    if (!PyObject_TypeCheck(search, objects.beside)) py_checks::bad_type("searches", "a Search in each slot", search);
    return search;
}

PyObject* search_in(py::handle searches, uint32_t slot) {
    return checked_search(PyDict_GetItemWithError(searches.ptr(), int_of(slot).ptr()), slot);
}

PyObject* rule_of(PyObject* search, const Member& rule) {
    PyObject* rules = objects.of_search.rules.get(search);
    if (Py_TYPE(rules) != objects.rules) py_checks::bad_type("rules", "a Rules", rules);
    return rule.get(rules);
}

PyObject* node_in(PyObject* search, size_t number) { return node_of(objects.of_search.nodes.get(search), number); }

PyObject* node_of(PyObject* nodes, size_t number) {
    if (!PyList_Check(nodes)) py_checks::bad_type("nodes", "a list", nodes);
    if (number >= static_cast<size_t>(PyList_GET_SIZE(nodes))) {
        throw py::index_error("nodes: expected the number of a node of the tree, got " + std::to_string(number));
    }
    PyObject* node = PyList_GET_ITEM(nodes, static_cast<Py_ssize_t>(number));
    if (!PyObject_TypeCheck(node, objects.node)) py_checks::bad_type("nodes", "a Node", node);
    return node;
}

namespace {

// Null where there is none.
PyObject* peek_node(PyObject* search, size_t number) {
    PyObject* nodes = objects.of_search.nodes.peek(search);
    if (nodes == nullptr || !PyList_Check(nodes) || number >= static_cast<size_t>(PyList_GET_SIZE(nodes)))
        return nullptr;
    PyObject* node = PyList_GET_ITEM(nodes, static_cast<Py_ssize_t>(number));
    return PyObject_TypeCheck(node, objects.node) ? node : nullptr;
}

}  // namespace

void fetch_parts(PyObject* search) {
    const auto& of = objects.of_search;
    for (const Member* part : {&of.nodes, &of.keys}) {
        __builtin_prefetch(part->peek(search));
    }
}

void fetch_entry(PyObject* search, size_t number) {
    PyObject* nodes = objects.of_search.nodes.peek(search);
    if (nodes != nullptr && PyList_Check(nodes)) {
        __builtin_prefetch(reinterpret_cast<PyListObject*>(nodes)->ob_item + number);
    }
}

void fetch_end(PyObject* search) {
    PyObject* nodes = objects.of_search.nodes.peek(search);
    if (nodes != nullptr && PyList_Check(nodes)) fetch_entry(search, static_cast<size_t>(PyList_GET_SIZE(nodes)));
}

void fetch_node(PyObject* search, size_t number) {
    PyObject* node = peek_node(search, number);
    if (node == nullptr) return;
    __builtin_prefetch(node);
    __builtin_prefetch(reinterpret_cast<char*>(node) + 64);
}

void fetch_state(PyObject* search, size_t number) {
    PyObject* node = peek_node(search, number);
    if (node != nullptr) __builtin_prefetch(objects.of_node.state.peek(node));
}

bool is_tracked(PyObject* object) {
    if (!PyObject_IS_GC(object)) return false;
    if (PyDict_Check(object)) return true;  // the collector looks at it as soon as something is put in
    if (!PyObject_GC_IsTracked(object)) return false;
    if (!PyTuple_CheckExact(object)) return true;
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(object); ++i) {
        PyObject* item = PyTuple_GET_ITEM(object, i);
        if (PyDict_Check(item) || (PyObject_IS_GC(item) && PyObject_GC_IsTracked(item))) return true;
    }
    PyObject_GC_UnTrack(object);
    return false;
}

bool untrack(PyObject* node) {
    if (!PyObject_GC_IsTracked(node)) return true;
    const auto& of = objects.of_node;
    for (const Member* field : {&of.state, &of.parent, &of.step, &of.tried, &of.prompt, &of.answer}) {
        if (is_tracked(field->get(node))) return false;
    }
    PyObject_GC_UnTrack(node);
    return true;
}

void track(PyObject* object) {
    if (!PyObject_GC_IsTracked(object)) PyObject_GC_Track(object);
}

void reveal(PyObject* search) {
    PyObject* entries = objects.of_search.nodes.get(search);
    if (!PyList_Check(entries)) py_checks::bad_type("nodes", "a list", entries);
    track(entries);
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(entries); ++i) {
        PyObject* node = PyList_GET_ITEM(entries, i);
        if (!PyObject_TypeCheck(node, objects.node)) continue;
        track(node);
        PyObject* tried = objects.of_node.tried.peek(node);
        if (tried != nullptr && PyList_CheckExact(tried)) track(tried);
    }
}

bool untrack_step(PyObject* step) {
    if (!PyObject_GC_IsTracked(step)) return true;
    if (Py_TYPE(step) != objects.step) return false;
    for (const Member& field : objects.step_fields) {
        PyObject* value = field.peek(step);
        if (value != nullptr && is_tracked(value)) return false;
    }
    PyObject_GC_UnTrack(step);
    return true;
}

void append_tracked(PyObject* list, PyObject* item) {
    if (PyObject_IS_GC(item) && PyObject_GC_IsTracked(item) && !PyObject_GC_IsTracked(list)) PyObject_GC_Track(list);
    if (PyList_Append(list, item) != 0) throw py::error_already_set();
}

void append_node(PyObject* entries, PyObject* node) {
    if (!PyList_Check(entries)) py_checks::bad_type("nodes", "a list", entries);
    const bool is_first = PyList_CheckExact(entries) && PyList_GET_SIZE(entries) == 1;
    if (is_first && !PyObject_GC_IsTracked(PyList_GET_ITEM(entries, 0))) PyObject_GC_UnTrack(entries);
    append_tracked(entries, node);
}

py::object new_node(PyObject* state, PyObject* prompt, PyObject* parent, PyObject* step) {
    py::object node = stolen(objects.node->tp_alloc(objects.node, 0));
    const auto& slots = objects.of_node;
    slots.state.set(node.ptr(), new_ref(state));
    slots.prompt.set(node.ptr(), new_ref(prompt));
    slots.parent.set(node.ptr(), new_ref(parent));
    slots.step.set(node.ptr(), new_ref(step));
    slots.value.set(node.ptr(), new_ref(Py_None));
    slots.answer.set(node.ptr(), new_ref(Py_None));
    slots.tried.set(node.ptr(), new_ref(Py_None));
    untrack(parent);
    untrack(node.ptr());
    return node;
}

py::object exception_in(py::error_already_set& error) {
    if (!error.matches(PyExc_Exception)) throw;
    py::object value = error.value();
    if (error.trace()) PyException_SetTraceback(value.ptr(), error.trace().ptr());
    return value;
}

}  // namespace bavt::waves
