// The loops of a wave over the Python objects of its searches: asks out as requests, answers in (waves_admit.cpp), values in.
//
// What they do is said in `bavt_fast/waves.py`, which names them, and once more in Python in `bavt_fast/reference/waves.py`.
#include <exception>
#include <utility>

#include "python/waves_admit.h"

using namespace pybind11::literals;

namespace py = pybind11;

void bind_waves(py::module_& m);

namespace bavt::waves {
namespace {

// ---- Out -----------------------------------------------------------------------------------------------------------

// `Node.tried`; with `known`, as it was when so many steps had come back.
py::object tried_of(PyObject* node, size_t known = SIZE_MAX) {
    PyObject* tried = objects.of_node.tried.get(node);
    if (tried == Py_None || known == 0) return borrowed(objects.nothing);
    if (!PyList_CheckExact(tried)) return stolen(PyTuple_Pack(1, tried));
    const auto size = std::min(static_cast<size_t>(PyList_GET_SIZE(tried)), known);
    py::object steps = stolen(PyTuple_New(static_cast<Py_ssize_t>(size)));
    for (size_t i = 0; i < size; ++i) {
        const auto at = static_cast<Py_ssize_t>(i);
        PyTuple_SET_ITEM(steps.ptr(), at, new_ref(PyList_GET_ITEM(tried, at)));
    }
    return steps;
}

// A `StepRequest`, past the checks of a constructor that takes texts too.
py::object new_request(PyObject* search, PyObject* node, PyObject* seed, py::object tried) {
    py::object left_s = py::none();
    if (objects.of_search.untimed.get(search) != Py_True) {
        left_s = call(attribute(search, objects.seconds_left).ptr());
    }
    py::object request = stolen(objects.request->tp_alloc(objects.request, 5));
#if PY_VERSION_HEX >= 0x030E0000
    reinterpret_cast<PyTupleObject*>(request.ptr())->ob_hash = -1;  // not known yet
#endif
    PyTuple_SET_ITEM(request.ptr(), 0, new_ref(node));
    PyTuple_SET_ITEM(request.ptr(), 1, new_ref(seed));
    PyTuple_SET_ITEM(request.ptr(), 2, tried.release().ptr());
    PyTuple_SET_ITEM(request.ptr(), 3, new_ref(objects.of_search.sampling.get(search)));
    PyTuple_SET_ITEM(request.ptr(), 4, left_s.release().ptr());
    if (untrack(node)) PyObject_GC_UnTrack(request.ptr());  // the steps that were tried lead nowhere either
    return request;
}

py::object requests_of(py::handle searches, py::handle slots, py::handle nodes, py::handle seeds, py::handle tries) {
    const Items slot_items("slots", slots), node_items("nodes", nodes, slot_items.size());
    const Items seed_items("seeds", seeds, slot_items.size());
    ShortColumn<int64_t> known(0);
    if (!tries.is_none()) known = counts_of("tries", tries, slot_items.size());
    const Questions questions(searches, slot_items, node_items);
    std::vector<py::object> requests;
    requests.reserve(questions.size());
    for (size_t i = 0; i < questions.size(); ++i) {
        questions.fetch_ahead(i);
        const py::object node = borrowed(questions.node(i));
        const size_t steps = tries.is_none() ? SIZE_MAX : static_cast<size_t>(known[i]);
        requests.push_back(
            new_request(questions.search(i), node.ptr(), seed_items[i].ptr(), tried_of(node.ptr(), steps)));
    }
    return list_of(requests.size(), [&](size_t i) { return requests[i].release().ptr(); });
}

py::object ask(Engine& engine, py::handle searches, size_t limit, double now_s) {
    std::vector<WaveAsk> asks;
    std::vector<bavt::Slot> stopped;
    engine.ask(limit, now_s, &asks, &stopped);
    const size_t size = asks.size();
    py::tuple columns(8);
    columns[0] = list_of(size, [&](size_t i) { return PyLong_FromUnsignedLong(asks[i].slot); });
    columns[1] = list_of(size, [&](size_t i) { return PyLong_FromUnsignedLong(asks[i].ask.node); });
    columns[2] = list_of(size, [&](size_t i) { return PyLong_FromUnsignedLong(asks[i].ask.count); });
    columns[3] = list_of(size, [&](size_t i) { return PyLong_FromUnsignedLongLong(asks[i].ticket); });
    columns[4] = list_of(size, [&](size_t i) { return PyLong_FromLongLong(asks[i].ask.limit); });
    columns[5] = list_of(size, [&](size_t i) { return PyLong_FromUnsignedLongLong(asks[i].ask.seed); });
    columns[6] =
        requests_of(searches, py::object(columns[0]), py::object(columns[1]), py::object(columns[5]), py::none());
    columns[7] = list_of(stopped.size(), [&](size_t i) { return PyLong_FromUnsignedLong(stopped[i]); });
    return std::move(columns);
}

// ---- In ------------------------------------------------------------------------------------------------------------

py::object column(PyObject* pending, const Member& slot) { return borrowed(slot.get(pending)); }

// What a search does where its tree did not grow after all.
void mend(const std::vector<py::object>& grown) {
    for (const py::object& search : grown) call(attribute(search.ptr(), objects.mend).ptr());
}

bool grow(Engine& engine, py::handle searches, py::handle pending, py::handle values, double now_s, bool residual,
          py::handle weights, py::handle score_costs) {
    if (Py_TYPE(pending.ptr()) != objects.pending) py_checks::bad_type("pending", "a Pending", pending);
    const auto& of = objects.of_pending;
    const py::object slots = column(pending.ptr(), of.slots), node_list = column(pending.ptr(), of.nodes);
    const GrowthColumns columns(column(pending.ptr(), of.tickets), column(pending.ptr(), of.counts), values,
                                column(pending.ptr(), of.terminal), column(pending.ptr(), of.verified),
                                column(pending.ptr(), of.least), weights, score_costs);
    const Items slot_items("slots", slots, columns.size()), nodes("nodes", node_list, columns.num_states());
    for (size_t at = 0; at < nodes.size(); ++at) {
        if (!PyObject_TypeCheck(nodes[at].ptr(), objects.node)) py_checks::bad_type("nodes", "a Node", nodes[at]);
    }
    std::vector<py::object> grown;
    grown.reserve(columns.size());
    for (size_t i = 0; i < columns.size(); ++i) grown.push_back(borrowed(search_in(searches, slot_items[i].ptr())));
    ShortColumn<NodeId> first(columns.size());
    ShortColumn<double> made(columns.num_states());
    try {
        for (size_t i = 0; i < columns.size(); ++i) {
            if (i + 2 * kAhead < columns.size()) fetch_search(grown[i + 2 * kAhead].ptr());
            if (i + kAhead < columns.size()) fetch_parts(grown[i + kAhead].ptr());
            PyObject* entries = objects.of_search.nodes.get(grown[i].ptr());
            for (uint32_t at = columns.begin(i); at < columns.begin(i + 1); ++at) {
                if (PyList_Append(entries, nodes[at].ptr()) != 0) throw py::error_already_set();
            }
        }
        engine.grow(columns.wave(residual), now_s, first.data(), made.data());
    } catch (...) {
        mend(grown);
        throw;
    }
    const py::object slim = column(pending.ptr(), of.slim);
    bool observed = false;
    for (size_t at = 0; at < made.size(); ++at) {
        PyObject* node = nodes[at].ptr();
        objects.of_node.value.set(node, stolen(PyFloat_FromDouble(made[at])).release().ptr());
        if (slim.is_none()) continue;
        PyObject* step = PyDict_GetItemWithError(slim.ptr(), node);
        if (step != nullptr) objects.of_node.step.set(node, new_ref(step));
        if (step == nullptr && PyErr_Occurred() != nullptr) throw py::error_already_set();
    }
    for (const py::object& search : grown) observed |= objects.of_search.observer.get(search.ptr()) != Py_None;
    if (observed) call(objects.note_growth, searches.ptr(), pending.ptr(), score_costs.ptr());
    return columns.clipped(residual);
}

// ---- Functions of the module ---------------------------------------------------------------------------------------

// What they are called with, by place.
class Arguments {
   public:
    Arguments(PyObject* const* given, Py_ssize_t size) : given_(given), size_(static_cast<size_t>(size)) {}
    py::handle operator[](size_t i) const { return i < size_ ? given_[i] : Py_None; }
    Engine& engine() const {
        if (size_ == 0 || reinterpret_cast<PyObject*>(Py_TYPE(given_[0])) != objects.engine) {
            py_checks::bad_type("engine", "an Engine", (*this)[0]);
        }
        return *reinterpret_cast<py::detail::instance*>(given_[0])->get_value_and_holder().value_ptr<Engine>();
    }
    py::handle searches(size_t i) const {
        if (!PyDict_Check((*this)[i].ptr())) py_checks::bad_type("searches", "a dict by slot", (*this)[i]);
        return (*this)[i];
    }
    double now_s(size_t i) const { return finite("now_s", (*this)[i]); }
    py::object kept(size_t i) const { return borrowed((*this)[i].ptr()); }

   private:
    PyObject* const* given_;
    size_t size_;
};

py::object ask(const Arguments& given) {
    const auto limit = static_cast<size_t>(count("limit", given[2]));
    return ask(given.engine(), given.searches(1), limit, given.now_s(3));
}

py::object requests_of(const Arguments& given) {
    return requests_of(given.searches(0), given[1], given[2], given[3], given[4]);
}

py::object settle(const Arguments& given) {
    const Asks asks(given.searches(1), given[2], given[3], given[4]);
    return settle(given.engine(), given.searches(1), asks, Answers(asks, given[5]), given.now_s(6)).to_python();
}

py::object describe(const Arguments& given) {
    const Asks asks(given.searches(1), given[2], given[3], given[4]);
    const Answers answers(asks, given[5]);
    const Settled settled = Settled::from_python(given[6], answers.num_steps());
    return describe(given.engine(), given.searches(1), asks, answers, settled, given.kept(7));
}

py::object admit(const Arguments& given) {
    Engine& engine = given.engine();
    const Asks asks(given.searches(1), given[2], given[3], given[4]);
    const Answers answers(asks, given[5]);
    const Settled settled = settle(engine, given.searches(1), asks, answers, given.now_s(6));
    return describe(engine, given.searches(1), asks, answers, settled, py::none());
}

py::object grow(const Arguments& given) {
    const bool residual = given[5].ptr() == Py_True;
    return py::bool_(
        grow(given.engine(), given.searches(1), given[2], given[3], given.now_s(4), residual, given[6], given[7]));
}

// pybind11's way into a function takes as long as a wave of one does in it. This is Python's own; what is thrown becomes
// an exception where pybind11 makes one of it.
std::exception_ptr thrown;
PyObject* raise_thrown;

template <py::object (*function)(const Arguments&)>
PyObject* entered(PyObject*, PyObject* const* given, Py_ssize_t size) {
    try {
        return function(Arguments(given, size)).release().ptr();
    } catch (py::error_already_set& error) {
        error.restore();
    } catch (...) {
        thrown = std::current_exception();
        Py_XDECREF(PyObject_CallNoArgs(raise_thrown));
    }
    return nullptr;
}

template <py::object (*function)(const Arguments&)>
PyMethodDef method(const char* name, const char* signature) {
    return {name, reinterpret_cast<PyCFunction>(reinterpret_cast<void*>(&entered<function>)), METH_FASTCALL, signature};
}

// For tuples of a class of their own, whose maker knows that they hold numbers and texts alone.
PyObject* untracked(PyObject*, PyObject* object) {
    if (PyTuple_Check(object) && PyObject_GC_IsTracked(object)) PyObject_GC_UnTrack(object);
    return new_ref(object);
}

// What each is for stands in bavt_fast/_core.pyi.
PyMethodDef methods[] = {
    {"untracked", &untracked, METH_O, "untracked(tuple_, /) -> tuple"},
    method<ask>("wave_ask", "wave_ask(engine, searches, limit, now_s, /) -> tuple"),
    method<requests_of>("wave_requests", "wave_requests(searches, slots, nodes, seeds, tries=None, /) -> list"),
    method<settle>("wave_settle", "wave_settle(engine, searches, slots, nodes, tickets, answers, now_s, /) -> tuple"),
    method<describe>(
        "wave_describe",
        "wave_describe(engine, searches, slots, nodes, tickets, answers, settled, described=None, /) -> Pending"),
    method<admit>("wave_admit", "wave_admit(engine, searches, slots, nodes, tickets, answers, now_s, /) -> Pending"),
    method<grow>(
        "wave_grow",
        "wave_grow(engine, searches, pending, values, now_s, residual=False, weights=None, score_costs=None, /) "
        "-> bool"),
    {nullptr, nullptr, 0, nullptr}};

}  // namespace
}  // namespace bavt::waves

void bind_waves(py::module_& m) {
    using namespace bavt::waves;
    m.def("read_wave_objects", &read_objects, "names"_a);
    raise_thrown = py::cpp_function([] { std::rethrow_exception(std::exchange(thrown, nullptr)); }).release().ptr();
    if (PyModule_AddFunctions(m.ptr(), methods) != 0) throw py::error_already_set();
}
