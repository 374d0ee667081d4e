// The loops of a wave over the Python objects of its searches: asks out as requests, answers in (waves_admit.cpp), values in
// (waves_grow.cpp), and waves one after the other.
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

std::exception_ptr thrown;
PyObject* raise_thrown;  // has pybind11 make a Python exception of it

// What a catch block has caught becomes what Python raises.
void restore_thrown() {
    try {
        throw;
    } catch (py::error_already_set& error) {
        error.restore();
    } catch (...) {
        thrown = std::current_exception();
        Py_XDECREF(PyObject_CallNoArgs(raise_thrown));
    }
}

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
    untrack(node);
    return request;
}

// The requests of asks; seed_of(i) and tried(i, node) give what is in them.
template <typename SeedOf, typename Tried>
py::object requests_of(const Questions& questions, SeedOf seed_of, Tried tried) {
    std::vector<py::object> requests;
    requests.reserve(questions.size());
    for (size_t i = 0; i < questions.size(); ++i) {
        questions.fetch_ahead(i);
        const py::object node = borrowed(questions.node(i));
        requests.push_back(new_request(questions.search(i), node.ptr(), seed_of(i).ptr(), tried(i, node.ptr())));
    }
    return list_of(requests.size(), [&](size_t i) { return requests[i].release().ptr(); });
}

py::object requests_of(const Questions& questions, const std::vector<WaveAsk>& asks) {
    return requests_of(
        questions, [&](size_t i) { return int_of(asks[i].ask.seed); },
        [](size_t, PyObject* node) { return tried_of(node); });
}

py::object requests_of(py::handle searches, py::handle slots, py::handle nodes, py::handle seeds, py::handle tries) {
    const ShortColumn<Slot> slot_column = slots_in(slots);
    const Items seed_items("seeds", seeds, slot_column.size());
    ShortColumn<int64_t> known(0);
    if (!tries.is_none()) known = counts_of("tries", tries, slot_column.size());
    return requests_of(
        Questions(searches, slot_column, nodes_in(nodes, slot_column.size())),
        [&](size_t i) { return borrowed(seed_items[i].ptr()); },
        [&](size_t i, PyObject* node) {
            return tried_of(node, tries.is_none() ? SIZE_MAX : static_cast<size_t>(known[i]));
        });
}

// Asks as Python has them: in columns, and last the slots of questions that have stopped.
py::object asked(const std::vector<WaveAsk>& asks, py::object requests, const std::vector<Slot>& stopped) {
    py::tuple columns(8);
    put_asks(asks, columns);
    columns[6] = std::move(requests);
    columns[7] = slots_of(stopped);
    return std::move(columns);
}

py::object ask(Engine& engine, py::handle searches, size_t limit, double now_s) {
    std::vector<WaveAsk> asks;
    std::vector<Slot> stopped;
    engine.ask(limit, now_s, &asks, &stopped);
    return asked(asks, requests_of(Asks(searches, asks).questions(), asks), stopped);
}

// ---- In ------------------------------------------------------------------------------------------------------------

double read(PyObject* clock) { return finite("now_s", call(clock)); }

// Values of what was admitted into the trees: None, or what Python has to look at: pending, what the critic gave, what it
// raised, and whether values were clipped.
py::object score(Engine& engine, py::handle searches, const Admitted& admitted, PyObject* critic, PyObject* clock,
                 bool residual) {
    const auto left = [&](const py::object& outputs, const py::object& error, bool clipped) {
        return py::make_tuple(admitted.to_python(), outputs, error, clipped);
    };
    const size_t size = admitted.states.num_states();
    py::object outputs = py::none();
    try {
        outputs = size == 0 ? py::object(py::list()) : call(critic, admitted.node_list().ptr());
    } catch (py::error_already_set& error) {
        return left(outputs, exception_in(error), false);
    }
    if (!PyList_CheckExact(outputs.ptr()) || static_cast<size_t>(PyList_GET_SIZE(outputs.ptr())) != size) {
        return left(outputs, py::none(), false);
    }
    try {
        const double now_s = read(clock);
        const ScoreColumns scores(admitted.states, outputs, py::none(), py::none());
        if (grow(engine, searches, admitted, scores, now_s, residual, py::none())) {
            return left(outputs, py::none(), true);
        }
        return py::none();
    } catch (py::error_already_set& error) {
        if (!error.matches(PyExc_Exception)) throw;
    } catch (const std::exception&) {  // Python does it again and meets it again
    }
    return left(outputs, py::none(), false);
}

py::object tell(Engine& engine, py::handle searches, const Asks& asks, py::handle given, PyObject* critic,
                PyObject* clock, bool residual) {
    const double now_s = read(clock);
    const Answers answers(asks, given);
    const Settled settled = settle(engine, searches, asks, answers, now_s);
    const Admitted admitted = describe(engine, searches, asks, answers, settled, py::none());
    if (admitted.states.size() == 0) return py::none();
    return score(engine, searches, admitted, critic, clock, residual);
}

// ---- Round and round -----------------------------------------------------------------------------------------------

// The answers to asks, or what the generator raised.
py::object proposed(PyObject* propose, const py::object& requests, const std::vector<WaveAsk>& asks) {
    const py::object counts =
        list_of(asks.size(), [&](size_t i) { return PyLong_FromUnsignedLong(asks[i].ask.count); });
    const py::object limits = list_of(asks.size(), [&](size_t i) { return PyLong_FromLongLong(asks[i].ask.limit); });
    try {
        return call(propose, requests.ptr(), counts.ptr(), limits.ptr());
    } catch (py::error_already_set& error) {
        return exception_in(error);
    }
}

// Waves one after the other, as long as nothing is unusual.
py::object rounds(Engine& engine, py::handle searches, PyObject* propose, PyObject* critic, size_t wave,
                  PyObject* clock, bool residual) {
    std::vector<WaveAsk> asks;
    std::vector<Slot> stopped;
    for (;;) {
        if (PyErr_CheckSignals() != 0) throw py::error_already_set();
        asks.clear();
        engine.ask(wave, read(clock), &asks, &stopped);
        const Asks questions(searches, asks);
        const py::object requests = requests_of(questions.questions(), asks);
        if (!stopped.empty() || asks.empty()) {
            return py::make_tuple(asked(asks, requests, stopped), py::tuple(), py::none());
        }
        const py::object answers = proposed(propose, requests, asks);
        const bool whole =
            PyList_CheckExact(answers.ptr()) && static_cast<size_t>(PyList_GET_SIZE(answers.ptr())) == asks.size();
        py::object left = py::none();
        bool told = false;
        try {
            if (whole) left = tell(engine, searches, questions, answers, critic, clock, residual);
            told = whole;
        } catch (...) {
            restore_thrown();
            if (PyErr_ExceptionMatches(PyExc_Exception) == 0) throw py::error_already_set();
            PyErr_Clear();
        }
        if (!told || !left.is_none()) {
            return py::make_tuple(asked(asks, requests, stopped), py::make_tuple(answers), left);
        }
    }
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
    return describe(given.engine(), given.searches(1), asks, answers, settled, given.kept(7)).to_python();
}

py::object admit(const Arguments& given) {
    Engine& engine = given.engine();
    const Asks asks(given.searches(1), given[2], given[3], given[4]);
    const Answers answers(asks, given[5]);
    const Settled settled = settle(engine, given.searches(1), asks, answers, given.now_s(6));
    return describe(engine, given.searches(1), asks, answers, settled, py::none()).to_python();
}

py::object grow(const Arguments& given) {
    Engine& engine = given.engine();
    const Admitted admitted = Admitted::from_python(given.searches(1), given[2]);
    const ScoreColumns scores(admitted.states, given[3], given[6], given[7]);
    const bool residual = given[5].ptr() == Py_True;
    return py::bool_(grow(engine, given.searches(1), admitted, scores, given.now_s(4), residual, given[7]));
}

py::object tell(const Arguments& given) {
    const Asks asks(given.searches(1), given[2], given[3], given[4]);
    const py::object critic = given.kept(6), clock = given.kept(7);
    return tell(given.engine(), given.searches(1), asks, given.kept(5), critic.ptr(), clock.ptr(),
                given[8].ptr() == Py_True);
}

py::object rounds(const Arguments& given) {
    const auto wave = static_cast<size_t>(count("wave", given[4]));
    const py::object propose = given.kept(2), critic = given.kept(3), clock = given.kept(5);
    return rounds(given.engine(), given.searches(1), propose.ptr(), critic.ptr(), wave, clock.ptr(),
                  given[6].ptr() == Py_True);
}

// pybind11's way into a function takes as long as a wave of one does in it. This is Python's own.
template <py::object (*function)(const Arguments&)>
PyObject* entered(PyObject*, PyObject* const* given, Py_ssize_t size) {
    try {
        return function(Arguments(given, size)).release().ptr();
    } catch (...) {
        restore_thrown();
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
    method<tell>(
        "wave_tell",
        "wave_tell(engine, searches, slots, nodes, tickets, answers, score, clock, residual, /) -> tuple | None"),
    method<rounds>("wave_rounds", "wave_rounds(engine, searches, propose, score, wave, clock, residual, /) -> tuple"),
    {nullptr, nullptr, 0, nullptr}};

}  // namespace
}  // namespace bavt::waves

void bind_waves(py::module_& m) {
    using namespace bavt::waves;
    m.def("read_wave_objects", &read_objects, "names"_a);
    raise_thrown = py::cpp_function([] { std::rethrow_exception(std::exchange(thrown, nullptr)); }).release().ptr();
    if (PyModule_AddFunctions(m.ptr(), methods) != 0) throw py::error_already_set();
}
