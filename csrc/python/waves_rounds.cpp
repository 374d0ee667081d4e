// Waves one after the other, as long as nothing is unusual: for generators that answer a whole wave, and for those that tell
// each answer when it is done.
#include <algorithm>
#include <utility>

#include "python/fast_call.h"
#include "python/waves.h"

namespace bavt::waves {
namespace {

py::object counts_of(const std::vector<WaveAsk>& asks) {
    return list_of(asks.size(), [&](size_t i) { return PyLong_FromUnsignedLong(asks[i].ask.count); });
}

py::object limits_of(const std::vector<WaveAsk>& asks) {
    return list_of(asks.size(), [&](size_t i) { return PyLong_FromLongLong(asks[i].ask.limit); });
}

bool is_list_of(const py::object& object, size_t size) {
    return PyList_CheckExact(object.ptr()) && static_cast<size_t>(PyList_GET_SIZE(object.ptr())) == size;
}

void check_signals() {
    if (PyErr_CheckSignals() != 0) throw py::error_already_set();
}

// Whether answers were told. An Exception of theirs is left to Python, which meets it again and finds whose it is.
template <typename Tell>
bool was_told(Tell tell_them) {
    try {
        tell_them();
        return true;
    } catch (...) {
        py_fast::restore_thrown();
        if (PyErr_ExceptionMatches(PyExc_Exception) == 0) throw py::error_already_set();
        PyErr_Clear();
    }
    return false;
}

// What a call gives, or the Exception that it raises.
template <typename... Arguments>
std::pair<py::object, py::object> tried(PyObject* function, Arguments... arguments) {
    try {
        return {call(function, arguments...), py::none()};
    } catch (py::error_already_set& error) {
        return {py::none(), exception_in(error)};
    }
}

// The requests of a wave, made unseen by the garbage collector, which sees those that anybody else holds at the end. Thousands
// of them outlive its first passes: it would look at all searches again and again for what goes by itself.
class Unseen {
   public:
    Unseen(const py::object& list, size_t size) : list_(list), items_(size) {
        for (size_t i = 0; i < size; ++i) {
            items_[i] = borrowed(PyList_GET_ITEM(list.ptr(), static_cast<Py_ssize_t>(i)));
        }
    }
    ~Unseen() {
        const bool list_is_kept = list_.ref_count() > 2;  // the caller has it too
        for (size_t i = 0; i < items_.size(); ++i) {
            const int own = is_in_list(i) ? 2 : 1;
            if (list_is_kept || items_[i].ref_count() > own) PyObject_GC_Track(items_[i].ptr());
        }
    }
    Unseen(const Unseen&) = delete;

   private:
    bool is_in_list(size_t i) const {
        const auto at = static_cast<Py_ssize_t>(i);
        return at < PyList_GET_SIZE(list_.ptr()) && PyList_GET_ITEM(list_.ptr(), at) == items_[i].ptr();
    }
    py::object list_;
    std::vector<py::object> items_;
};

}  // namespace

py::object rounds(Engine& engine, py::handle searches, PyObject* propose, size_t wave, const Scoring& by) {
    std::vector<WaveAsk> asks;
    std::vector<Slot> stopped;
    NextAsks next{wave, {}};
    double now_s = read(by.clock);
    for (;;) {
        check_signals();
        asks.swap(next.asks), next.asks.clear();
        engine.ask(wave - asks.size(), now_s, &asks, &stopped);
        const Asks questions(searches, asks);
        const py::object requests = requests_of(questions.questions(), asks, true);
        const Unseen unseen(requests, asks.size());
        if (!stopped.empty() || asks.empty()) {
            return py::make_tuple(asked(asks, requests, stopped), py::tuple(), py::none());
        }
        const py::object counts = counts_of(asks), limits = limits_of(asks);
        const py::object shown = stolen(PyList_GetSlice(requests.ptr(), 0, PY_SSIZE_T_MAX));  // it may change that
        const auto [given, error] = tried(propose, shown.ptr(), counts.ptr(), limits.ptr());
        const py::object answers = error.is_none() ? given : error;
        py::object left = py::none();
        const bool told = is_list_of(answers, asks.size()) &&
                          was_told([&] { left = tell(engine, searches, questions, answers, by, &now_s, &next); });
        if (!told || !left.is_none()) {
            return py::make_tuple(asked(asks, requests, stopped), py::make_tuple(answers), left);
        }
    }
}

// ---- Of a generator that streams -----------------------------------------------------------------------------------

namespace {

// The asks that are out, by ticket: slot, node, count.
class Out {
   public:
    explicit Out(py::handle asks) : asks_(asks) {}
    size_t size() const { return static_cast<size_t>(PyDict_GET_SIZE(asks_.ptr())); }

    void add(const std::vector<WaveAsk>& asks) {
        for (const WaveAsk& ask : asks) {
            const py::object slot = int_of(ask.slot), node = int_of(ask.ask.node);
            const py::object kept = stolen(PyTuple_Pack(3, slot.ptr(), node.ptr(), int_of(ask.ask.count).ptr()));
            if (PyDict_SetItem(asks_.ptr(), int_of(ask.ticket).ptr(), kept.ptr()) != 0) throw py::error_already_set();
        }
    }
    // Of the core's own numbers: the generator may have changed a list that it was given.
    void remove(const std::vector<WaveAsk>& asks) {
        for (const WaveAsk& ask : asks) remove(int_of(ask.ticket).ptr());
    }
    void remove(PyObject* ticket) {
        if (PyDict_DelItem(asks_.ptr(), ticket) != 0) throw py::error_already_set();
    }
    // Slot and node of an ask, borrowed; false where it is not out.
    bool find(PyObject* ticket, PyObject** slot, PyObject** node) const {
        if (!PyLong_CheckExact(ticket)) return false;
        PyObject* ask = PyDict_GetItemWithError(asks_.ptr(), ticket);
        if (ask == nullptr || !PyTuple_CheckExact(ask) || PyTuple_GET_SIZE(ask) != 3) {
            PyErr_Clear();
            return false;
        }
        *slot = PyTuple_GET_ITEM(ask, 0), *node = PyTuple_GET_ITEM(ask, 1);
        return true;
    }

   private:
    py::handle asks_;
};

// What a generator that streams has done, in the order of the tickets, in columns.
struct Done {
    py::object slots, nodes, tickets, answers;

    // False where it is not a list of pairs, each the ticket of another ask that is out and its answer.
    bool read(const py::object& given, const Out& out) {
        if (!PyList_CheckExact(given.ptr())) return false;
        struct Item {
            int64_t ticket;
            PyObject *as_object, *slot, *node, *answer;
        };
        std::vector<Item> items;
        for (Py_ssize_t i = 0; i < PyList_GET_SIZE(given.ptr()); ++i) {
            PyObject* pair = PyList_GET_ITEM(given.ptr(), i);
            if (!PyTuple_CheckExact(pair) || PyTuple_GET_SIZE(pair) != 2) return false;
            Item item{0, PyTuple_GET_ITEM(pair, 0), nullptr, nullptr, PyTuple_GET_ITEM(pair, 1)};
            if (!out.find(item.as_object, &item.slot, &item.node)) return false;
            item.ticket = PyLong_AsLongLong(item.as_object);
            items.push_back(item);
        }
        const auto comes_before = [](const Item& a, const Item& b) { return a.ticket < b.ticket; };
        std::sort(items.begin(), items.end(), comes_before);
        const auto is_same = [](const Item& a, const Item& b) { return a.ticket == b.ticket; };
        if (std::adjacent_find(items.begin(), items.end(), is_same) != items.end()) return false;
        slots = list_of(items.size(), [&](size_t i) { return new_ref(items[i].slot); });
        nodes = list_of(items.size(), [&](size_t i) { return new_ref(items[i].node); });
        tickets = list_of(items.size(), [&](size_t i) { return new_ref(items[i].as_object); });
        answers = list_of(items.size(), [&](size_t i) { return new_ref(items[i].answer); });
        return true;
    }
    size_t size() const { return static_cast<size_t>(PyList_GET_SIZE(tickets.ptr())); }
};

}  // namespace

py::object stream(Engine& engine, py::handle searches, py::handle given, PyObject* submit, PyObject* collect,
                  size_t wave, const Scoring& by) {
    Out out(given);
    std::vector<WaveAsk> asks;
    std::vector<Slot> stopped;
    NextAsks next{0, {}};
    double now_s = read(by.clock);
    for (;;) {
        check_signals();
        asks.swap(next.asks), next.asks.clear();
        const size_t taken = out.size() + asks.size();
        engine.ask(wave - std::min(wave, taken), now_s, &asks, &stopped);
        if (!asks.empty() || !stopped.empty() || out.size() == 0) {
            const py::object requests = requests_of(Asks(searches, asks).questions(), asks);
            const auto left_to_python = [&](const py::object& error) {
                return py::make_tuple(asked(asks, requests, stopped), error, py::none(), py::none());
            };
            if (!stopped.empty() || asks.empty()) return left_to_python(py::none());
            const py::object tickets =
                list_of(asks.size(), [&](size_t i) { return PyLong_FromUnsignedLongLong(asks[i].ticket); });
            const py::object counts = counts_of(asks), limits = limits_of(asks);
            out.add(asks);
            const auto [nothing, error] = tried(submit, tickets.ptr(), requests.ptr(), counts.ptr(), limits.ptr());
            if (!error.is_none()) {
                out.remove(asks);
                return left_to_python(error);
            }
        }
        const auto [collected, error] = tried(collect);
        if (!error.is_none()) return py::make_tuple(py::none(), error, py::none(), py::none());
        Done done;
        py::object left = py::none();
        const bool told = done.read(collected, out) && done.size() > 0 && was_told([&] {
                              const Asks questions(searches, done.slots, done.nodes, done.tickets);
                              next.limit = wave - std::min(wave, out.size() - done.size());
                              left = tell(engine, searches, questions, done.answers, by, &now_s, &next);
                          });
        if (!told) return py::make_tuple(py::none(), py::none(), collected, py::none());
        for (size_t i = 0; i < done.size(); ++i) {
            out.remove(PyList_GET_ITEM(done.tickets.ptr(), static_cast<Py_ssize_t>(i)));
        }
        if (!left.is_none()) return py::make_tuple(py::none(), py::none(), py::none(), left);
    }
}

}  // namespace bavt::waves
