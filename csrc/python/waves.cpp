// The loops of a wave over the Python objects of its searches: asks out as requests, answers in (waves_admit.cpp) and values
// in (waves_grow.cpp). waves_rounds.cpp has waves one after the other.
//
// What they do is said in `bavt_fast/waves.py`, which names them, and once more in Python in `bavt_fast/reference/waves.py`.
#include "python/waves.h"

#include <utility>

#include "python/fast_call.h"

using namespace pybind11::literals;

namespace py = pybind11;

void bind_waves(py::module_& m);

namespace bavt::waves {
namespace {

using namespace bavt::py_fast;

// ---- Out -----------------------------------------------------------------------------------------------------------

// `Node.tried`; with `known`, as it was when so many steps had come back.
py::object tried_of(PyObject* node, size_t known = SIZE_MAX) {
    PyObject* tried = objects.of_node.tried.get(node);
    if (tried == Py_None || known == 0) return borrowed(objects.nothing);
    if (!PyList_CheckExact(tried)) {
        py::object step = stolen(PyTuple_Pack(1, tried));
        if (!is_tracked(tried)) PyObject_GC_UnTrack(step.ptr());
        return step;
    }
    const auto size = std::min(static_cast<size_t>(PyList_GET_SIZE(tried)), known);
    py::object steps = stolen(PyTuple_New(static_cast<Py_ssize_t>(size)));
    for (size_t i = 0; i < size; ++i) {
        const auto at = static_cast<Py_ssize_t>(i);
        PyTuple_SET_ITEM(steps.ptr(), at, new_ref(PyList_GET_ITEM(tried, at)));
    }
    if (!PyObject_GC_IsTracked(tried)) PyObject_GC_UnTrack(steps.ptr());
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
    PyTuple_SET_ITEM(request.ptr(), 3, new_ref(rule_of(search, objects.of_rules.sampling)));
    PyTuple_SET_ITEM(request.ptr(), 4, left_s.release().ptr());
    untrack(node);
    return request;
}

// The requests of asks; seed_of(i) and tried(i, node) give what is in them. The garbage collector does not see those that
// are `unseen`.
template <typename SeedOf, typename Tried>
py::object requests_of(const Questions& questions, SeedOf seed_of, Tried tried, bool unseen = false) {
    std::vector<py::object> requests;
    requests.reserve(questions.size());
    for (size_t i = 0; i < questions.size(); ++i) {
        questions.fetch_ahead(i);
        const py::object node = borrowed(questions.node(i));
        requests.push_back(new_request(questions.search(i), node.ptr(), seed_of(i).ptr(), tried(i, node.ptr())));
        if (unseen) PyObject_GC_UnTrack(requests.back().ptr());
    }
    return list_of(requests.size(), [&](size_t i) { return requests[i].release().ptr(); });
}

}  // namespace

py::object requests_of(const Questions& questions, const std::vector<WaveAsk>& asks, bool unseen) {
    return requests_of(
        questions, [&](size_t i) { return int_of(asks[i].ask.seed); },
        [](size_t, PyObject* node) { return tried_of(node); }, unseen);
}

namespace {

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

}  // namespace

py::object asked(const std::vector<WaveAsk>& asks, py::object requests, const std::vector<Slot>& stopped) {
    py::tuple columns(8);
    put_asks(asks, columns);
    columns[6] = std::move(requests);
    columns[7] = slots_of(stopped);
    return std::move(columns);
}

namespace {

py::object ask(Engine& engine, py::handle searches, size_t limit, double now_s) {
    std::vector<WaveAsk> asks;
    std::vector<Slot> stopped;
    engine.ask(limit, now_s, &asks, &stopped);
    return asked(asks, requests_of(Asks(searches, asks).questions(), asks), stopped);
}

// ---- In ------------------------------------------------------------------------------------------------------------

}  // namespace

double read(PyObject* clock) { return finite("now_s", call(clock)); }

namespace {

// Values of what was admitted into the trees: None, or what Python has to look at: pending, what the critic gave, what it
// raised, and whether values were clipped.
py::object score(Engine& engine, py::handle searches, const Admitted& admitted, const Scoring& by, double* now_s,
                 NextAsks* next) {
    const auto left = [&](const py::object& outputs, const py::object& error, bool clipped) {
        return py::make_tuple(admitted.to_python(), outputs, error, clipped);
    };
    const size_t size = admitted.states.num_states();
    py::object outputs = py::none();
    try {
        outputs = size == 0 ? py::object(py::list()) : call(by.critic, admitted.node_list().ptr());
    } catch (py::error_already_set& error) {
        return left(outputs, exception_in(error), false);
    }
    if (!PyList_CheckExact(outputs.ptr()) || static_cast<size_t>(PyList_GET_SIZE(outputs.ptr())) != size) {
        return left(outputs, py::none(), false);
    }
    try {
        *now_s = read(by.clock);
        const ScoreColumns scores(admitted.states, outputs, py::none(), py::none());
        if (grow(engine, searches, admitted, scores, *now_s, by.residual, py::none(), next)) {
            return left(outputs, py::none(), true);
        }
        return py::none();
    } catch (py::error_already_set& error) {
        if (!error.matches(PyExc_Exception)) throw;
    } catch (const std::exception&) {  // Python does it again and meets it again
    }
    return left(outputs, py::none(), false);
}

}  // namespace

py::object tell(Engine& engine, py::handle searches, const Asks& asks, py::handle given, const Scoring& by,
                double* now_s, NextAsks* next) {
    *now_s = read(by.clock);
    const Answers answers(asks, given);
    const Settled settled = settle(engine, searches, asks, answers, *now_s);
    const Admitted admitted = describe(engine, searches, asks, answers, settled, py::none());
    if (admitted.states.size() == 0) return py::none();
    return score(engine, searches, admitted, by, now_s, next);
}

// ---- Functions of the module ---------------------------------------------------------------------------------------

namespace {

Engine& engine_in(const Arguments& given) {
    if (reinterpret_cast<PyObject*>(Py_TYPE(given[0].ptr())) != objects.engine) {
        py_checks::bad_type("engine", "an Engine", given[0]);
    }
    return *reinterpret_cast<py::detail::instance*>(given[0].ptr())->get_value_and_holder().value_ptr<Engine>();
}

py::handle searches_in(const Arguments& given, size_t i) {
    if (!PyDict_Check(given[i].ptr())) py_checks::bad_type("searches", "a dict by slot", given[i]);
    return given[i];
}

double now_in(const Arguments& given, size_t i) { return finite("now_s", given[i]); }

py::object ask(const Arguments& given) {
    const auto limit = static_cast<size_t>(count("limit", given[2]));
    return ask(engine_in(given), searches_in(given, 1), limit, now_in(given, 3));
}

py::object requests_of(const Arguments& given) {
    return requests_of(searches_in(given, 0), given[1], given[2], given[3], given[4]);
}

py::object settle(const Arguments& given) {
    const Asks asks(searches_in(given, 1), given[2], given[3], given[4]);
    return settle(engine_in(given), searches_in(given, 1), asks, Answers(asks, given[5]), now_in(given, 6)).to_python();
}

py::object describe(const Arguments& given) {
    const Asks asks(searches_in(given, 1), given[2], given[3], given[4]);
    const Answers answers(asks, given[5]);
    const Settled settled = Settled::from_python(given[6], answers.num_steps());
    return describe(engine_in(given), searches_in(given, 1), asks, answers, settled, given.kept(7)).to_python();
}

py::object admit(const Arguments& given) {
    Engine& engine = engine_in(given);
    const Asks asks(searches_in(given, 1), given[2], given[3], given[4]);
    const Answers answers(asks, given[5]);
    const Settled settled = settle(engine, searches_in(given, 1), asks, answers, now_in(given, 6));
    return describe(engine, searches_in(given, 1), asks, answers, settled, py::none()).to_python();
}

py::object grow(const Arguments& given) {
    Engine& engine = engine_in(given);
    const Admitted admitted = Admitted::from_python(searches_in(given, 1), given[2]);
    const ScoreColumns scores(admitted.states, given[3], given[6], given[7]);
    const bool residual = given[5].ptr() == Py_True;
    return py::bool_(grow(engine, searches_in(given, 1), admitted, scores, now_in(given, 4), residual, given[7]));
}

py::object tell(const Arguments& given) {
    const Asks asks(searches_in(given, 1), given[2], given[3], given[4]);
    const py::object critic = given.kept(6), clock = given.kept(7);
    const Scoring scoring{critic.ptr(), clock.ptr(), given[8].ptr() == Py_True};
    double now_s;
    return tell(engine_in(given), searches_in(given, 1), asks, given.kept(5), scoring, &now_s);
}

py::object rounds(const Arguments& given) {
    const auto wave = static_cast<size_t>(count("wave", given[4]));
    const py::object propose = given.kept(2), critic = given.kept(3), clock = given.kept(5);
    const Scoring scoring{critic.ptr(), clock.ptr(), given[6].ptr() == Py_True};
    return rounds(engine_in(given), searches_in(given, 1), propose.ptr(), wave, scoring);
}

py::object stream(const Arguments& given) {
    if (!PyDict_CheckExact(given[2].ptr())) py_checks::bad_type("out", "a dict by ticket", given[2]);
    const auto wave = static_cast<size_t>(count("wave", given[6]));
    const py::object submit = given.kept(3), collect = given.kept(4), critic = given.kept(5), clock = given.kept(7);
    const Scoring scoring{critic.ptr(), clock.ptr(), given[8].ptr() == Py_True};
    return stream(engine_in(given), searches_in(given, 1), given[2], submit.ptr(), collect.ptr(), wave, scoring);
}

// For objects whose maker knows that they lead nowhere.
PyObject* untracked(PyObject*, PyObject* object) {
    if (PyObject_IS_GC(object) && PyObject_GC_IsTracked(object)) PyObject_GC_UnTrack(object);
    return new_ref(object);
}

// What each is for stands in bavt_fast/_core.pyi.
PyMethodDef methods[] = {
    {"untracked", &untracked, METH_O, "untracked(object, /) -> object"},
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
    method<stream>("wave_stream",
                   "wave_stream(engine, searches, out, submit, collect, score, wave, clock, residual, /) -> tuple"),
    {nullptr, nullptr, 0, nullptr}};

}  // namespace
}  // namespace bavt::waves

void bind_waves(py::module_& m) {
    using namespace bavt::waves;
    m.def("read_wave_objects", &read_objects, "names"_a);
    add_functions(m, methods);
}
