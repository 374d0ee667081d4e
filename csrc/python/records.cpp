// What a search found, as Python reads it, and records of classes with `__slots__` made past their constructors.

#include <string_view>
#include <unordered_map>
#include <vector>

#include "engine/question.h"
#include "python/columns.h"
#include "python/fast_call.h"
#include "python/wave_objects.h"

namespace bavt::waves {
namespace {

using namespace bavt::py_fast;

// The slots of a class in their order, looked up once.
const std::vector<Member>& slots_of(PyTypeObject* cls) {
    static std::unordered_map<PyTypeObject*, std::vector<Member>> known;  // a class that is in here stays
    const auto found = known.find(cls);
    if (found != known.end()) return found->second;
    for (PyTypeObject* base = cls; base != &PyBaseObject_Type; base = base->tp_base) {
        if (PyType_HasFeature(base, Py_TPFLAGS_HEAPTYPE)) continue;  // written in Python: its slots are all it has
        py_checks::bad_type("cls", "a class with __slots__ alone", py::handle(reinterpret_cast<PyObject*>(cls)));
    }
    std::vector<Member> slots;
    const py::object names = py::handle(reinterpret_cast<PyObject*>(cls)).attr("__slots__");
    for (const auto& name : names) {
        slots.emplace_back(reinterpret_cast<PyObject*>(cls), py::cast<std::string>(name).c_str());
    }
    Py_INCREF(cls);
    return known[cls] = std::move(slots);
}

py::object filled(const Arguments& given) {
    if (!PyType_Check(given[0].ptr())) py_checks::bad_type("cls", "a class with __slots__", given[0]);
    auto* cls = reinterpret_cast<PyTypeObject*>(given[0].ptr());
    const std::vector<Member>& slots = slots_of(cls);
    if (given.size() != slots.size() + 1) {
        py_checks::bad_value("values", std::to_string(slots.size()) + ", one for each slot",
                             std::to_string(given.size() - 1));
    }
    py::object record = stolen(cls->tp_alloc(cls, 0));
    bool leads_on = false;
    for (size_t i = 0; i < slots.size(); ++i) {
        PyObject* value = given[i + 1].ptr();
        slots[i].set(record.ptr(), new_ref(value));
        leads_on |= is_tracked(value);
    }
    if (!leads_on) PyObject_GC_UnTrack(record.ptr());
    return record;
}

// ---- A search's outcome --------------------------------------------------------------------------------------------

py::tuple column_of(PyObject* nodes, const Member& field) {
    py::tuple column(static_cast<size_t>(PyList_GET_SIZE(nodes)));
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(nodes); ++i) {
        PyTuple_SET_ITEM(column.ptr(), i, new_ref(field.get(PyList_GET_ITEM(nodes, i))));
    }
    return column;
}

py::tuple tuple_of(const Amounts& amounts) {
    py::tuple items(kResources);
    for (size_t i = 0; i < kResources; ++i) items[i] = py::int_(amounts[i]);
    return items;
}

// The texts of the steps along a path, without the line breaks around them.
py::tuple texts_of(PyObject* nodes, const std::vector<NodeId>& path) {
    py::tuple texts(path.size());
    for (size_t i = 0; i < path.size(); ++i) {
        const py::object step = borrowed(objects.of_node.step.get(node_of(nodes, path[i])));
        const py::object text = attribute(step.ptr(), objects.of_step.text.name());
        texts[i] = call(attribute(text.ptr(), objects.strip).ptr(), objects.line_break);
    }
    return texts;
}

// (question, nodes)
py::object outcome(const Arguments& given) {
    const auto& question = py::cast<const Question&>(given[0]);
    PyObject* nodes = given[1].ptr();
    if (!PyList_Check(nodes)) py_checks::bad_type("nodes", "a list", given[1]);
    const std::vector<NodeId> path = question.best_path();
    const size_t last = path.empty() ? 0 : path.back();
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(nodes); ++i) node_of(nodes, static_cast<size_t>(i));  // each is a node
    PyObject* end = node_of(nodes, last);
    py::tuple numbers(path.size());
    for (size_t i = 0; i < path.size(); ++i) numbers[i] = int_of(path[i]);
    const Question::Counts& counts = question.counts();
    return py::make_tuple(borrowed(objects.of_node.answer.get(end)), borrowed(objects.of_node.value.get(end)),
                          texts_of(nodes, path), std::move(numbers), tuple_of(question.account().spent()),
                          question.account().elapsed_s(), tuple_of(question.account().overrun()),
                          question.tree().clone(), column_of(nodes, objects.of_node.step),
                          column_of(nodes, objects.of_node.answer), counts.invalid, counts.duplicate, counts.refuted);
}

PyMethodDef methods[] = {method<filled>("filled", "filled(cls, /, *values) -> object"),
                         method<outcome>("outcome", "outcome(question, nodes, /) -> tuple"),
                         {nullptr, nullptr, 0, nullptr}};

}  // namespace
}  // namespace bavt::waves

void bind_records(pybind11::module_& m) { bavt::py_fast::add_functions(m, bavt::waves::methods); }
