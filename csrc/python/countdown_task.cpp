// Binds what the task Countdown does at every step of a search, on its own records (NamedTuples). Whether a step is legal
// is decided in countdown/step.h; this makes the records.
//
// What the task itself never makes (a state with other numbers than ints from 0 to 999, a text that is not ASCII) is
// left to its readable code: the answer is NotImplemented.
#include <pybind11/pybind11.h>

#include <algorithm>
#include <charconv>
#include <string_view>

#include "countdown/solver.h"
#include "countdown/step.h"
#include "python/checks.h"
#include "python/fast_call.h"

namespace py = pybind11;

namespace {

using bavt::countdown::kMaxNumbers;
using bavt::countdown::kMaxValue;
using namespace bavt::py_fast;

// One number of a state, and how it was made. Borrowed.
struct Entry {
    int32_t number;
    PyObject* as_object;
    PyObject* expression;
};

bool is_plain_text(PyObject* object) { return PyUnicode_CheckExact(object) && PyUnicode_IS_COMPACT_ASCII(object); }

std::string_view view_of(PyObject* plain_text) {
    return {static_cast<const char*>(PyUnicode_DATA(plain_text)),
            static_cast<size_t>(PyUnicode_GET_LENGTH(plain_text))};
}

bool is_plain_number(PyObject* object, int32_t* number) {
    if (!PyLong_CheckExact(object)) return false;
    int overflow = 0;
    const long value = PyLong_AsLongAndOverflow(object, &overflow);
    *number = static_cast<int32_t>(value);
    return overflow == 0 && value >= 0 && value <= kMaxValue;
}

// A state (numbers, target, expressions), borrowed.
struct State {
    Entry entries[kMaxNumbers];
    int count = 0;
    PyObject* target = nullptr;

    // Whether it is one that the task makes.
    bool read(py::handle kind, py::handle state) {
        if (!PyTuple_Check(state.ptr()) || PyTuple_GET_SIZE(state.ptr()) != 3) return false;
        if (!py::type::handle_of(state).is(kind)) return false;
        PyObject* numbers = PyTuple_GET_ITEM(state.ptr(), 0);
        PyObject* expressions = PyTuple_GET_ITEM(state.ptr(), 2);
        target = PyTuple_GET_ITEM(state.ptr(), 1);
        if (!PyTuple_CheckExact(numbers) || !PyTuple_CheckExact(expressions)) return false;
        const Py_ssize_t size = PyTuple_GET_SIZE(numbers);
        if (size < 1 || size > kMaxNumbers || PyTuple_GET_SIZE(expressions) != size) return false;
        for (; count < size; ++count) {
            Entry& entry = entries[count];
            entry.as_object = PyTuple_GET_ITEM(numbers, count);
            entry.expression = PyTuple_GET_ITEM(expressions, count);
            if (!is_plain_number(entry.as_object, &entry.number) || !is_plain_text(entry.expression)) return false;
        }
        return true;
    }
};

// Ascending by number, then by expression.
bool comes_before(const Entry& a, const Entry& b) {
    if (a.number != b.number) return a.number < b.number;
    return view_of(a.expression) < view_of(b.expression);
}

py::object owned(PyObject* object) {
    if (object == nullptr) throw py::error_already_set();
    return py::reinterpret_steal<py::object>(object);
}

// A record of a class made by NamedTuple.
template <typename... Fields>
py::object record(py::handle kind, Fields... fields) {
    auto* type = reinterpret_cast<PyTypeObject*>(kind.ptr());
    if (!PyType_Check(kind.ptr()) || !PyType_IsSubtype(type, &PyTuple_Type)) {
        bavt::py_checks::bad_type("description", "a NamedTuple", kind);
    }
    py::object made = owned(type->tp_alloc(type, sizeof...(fields)));
    Py_ssize_t place = 0;
    (PyTuple_SET_ITEM(made.ptr(), place++, py::object(std::move(fields)).release().ptr()), ...);
    return made;
}

char* put(std::string_view word, char* at) { return std::copy(word.begin(), word.end(), at); }

// "(first + second)"
py::object combined(PyObject* first, char operation, PyObject* second) {
    const std::string_view a = view_of(first), b = view_of(second);
    py::object text = owned(PyUnicode_New(static_cast<Py_ssize_t>(a.size() + b.size() + 5), 127));
    char* at = static_cast<char*>(PyUnicode_DATA(text.ptr()));
    const char operation_between[] = {' ', operation, ' '};
    at = put(a, put("(", at));
    put(")", put(b, put({operation_between, 3}, at)));
    return text;
}

py::object not_implemented() { return py::reinterpret_borrow<py::object>(Py_NotImplemented); }

// (kind, state, text)
py::object apply(const Arguments& given) {
    const py::handle kind = given[0], state = given[1], text = given[2];
    State from;
    if (!is_plain_text(text.ptr()) || !from.read(kind, state)) return not_implemented();
    int32_t numbers[kMaxNumbers];
    for (int i = 0; i < from.count; ++i) numbers[i] = from.entries[i].number;
    bavt::countdown::Step step;
    if (!bavt::countdown::read_step(view_of(text.ptr()), numbers, from.count, &step)) return py::none();

    const py::object result = owned(PyLong_FromLong(step.result));
    const py::object expression =
        combined(from.entries[step.first].expression, step.operation, from.entries[step.second].expression);
    Entry left[kMaxNumbers];
    int count = 0;
    for (int i = 0; i < from.count; ++i) {
        if (i != step.first && i != step.second) left[count++] = from.entries[i];
    }
    left[count++] = {step.result, result.ptr(), expression.ptr()};
    std::sort(left, left + count, comes_before);
    py::tuple numbers_left(count), expressions(count);
    for (int i = 0; i < count; ++i) {
        PyTuple_SET_ITEM(numbers_left.ptr(), i, Py_NewRef(left[i].as_object));
        PyTuple_SET_ITEM(expressions.ptr(), i, Py_NewRef(left[i].expression));
    }
    return record(kind, std::move(numbers_left), py::reinterpret_borrow<py::object>(from.target),
                  std::move(expressions));
}

// "Target: 24 (left: 4 5 6 10)\n"
py::object prompt_of(const State& state, int32_t target) {
    char text[64];
    char* at = std::to_chars(put("Target: ", text), text + sizeof text, target).ptr;
    at = put(" (left:", at);
    for (int i = 0; i < state.count; ++i) {
        *at++ = ' ';
        at = std::to_chars(at, text + sizeof text, state.entries[i].number).ptr;
    }
    at = put(")\n", at);
    return owned(PyUnicode_FromStringAndSize(text, at - text));
}

// Without the brackets around the whole.
py::object answer_of(PyObject* expression) {
    const std::string_view text = view_of(expression);
    if (text.empty() || text.front() != '(') return py::reinterpret_borrow<py::object>(expression);
    return owned(PyUnicode_Substring(expression, 1, static_cast<Py_ssize_t>(text.size()) - 1));
}

// (kind, state, description)
py::object describe(const Arguments& given) {
    const py::handle kind = given[0], state = given[1], description = given[2];
    State read;
    int32_t target;
    if (!read.read(kind, state) || !is_plain_number(read.target, &target)) return not_implemented();
    py::object prompt = prompt_of(read, target);
    if (read.count == 1) {
        const Entry& last = read.entries[0];
        return record(description, py::bool_(true), py::bool_(last.number == target), answer_of(last.expression),
                      std::move(prompt), py::int_(0));
    }
    // A step that leaves m numbers is 7 + m tokens: of all steps from here to the last number.
    const int steps = read.count - 1;
    return record(description, py::bool_(false), py::none(), py::none(), std::move(prompt),
                  py::int_(7 * steps + steps * (steps + 1) / 2));
}

PyMethodDef methods[] = {
    method<apply>("countdown_apply",
                  "countdown_apply(kind, state, text, /)\n\n"
                  "The state after a step over integers, of the class `kind`; None for a step that is not legal.\n\n"
                  "NotImplemented for a state or a text that the task never makes."),
    method<describe>("countdown_describe",
                     "countdown_describe(kind, state, description, /)\n\n"
                     "A state of the class `kind` over integers as a `description`.\n\n"
                     "NotImplemented for a state that the task never makes."),
    {nullptr, nullptr, 0, nullptr}};

}  // namespace

void bind_countdown_task(py::module_& m) { add_functions(m, methods); }
