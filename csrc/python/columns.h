// Columns of a wave that come from Python and go there: lists of numbers, checked as they are read.
//
// A wave of one is as common as one of a thousand, and a list of ints is made and read faster than an array below some
// hundred items.
#pragma once

#include <pybind11/pybind11.h>

#include <algorithm>
#include <string>
#include <vector>

#include "engine/engine.h"
#include "python/checks.h"

namespace bavt::py_columns {

namespace py = pybind11;

// A list or tuple as it is, anything else that can be iterated as a new list.
class Items {
   public:
    Items(const char* name, py::handle object, size_t expected = SIZE_MAX) {
        list_ = py::reinterpret_steal<py::object>(PySequence_Fast(object.ptr(), ""));
        if (!list_) {
            PyErr_Clear();
            py_checks::bad_type(name, "a list", object);
        }
        if (expected != SIZE_MAX && size() != expected) {
            py_checks::bad_value(name, std::to_string(expected) + " items", std::to_string(size()));
        }
    }
    size_t size() const { return static_cast<size_t>(PySequence_Fast_GET_SIZE(list_.ptr())); }
    // Converting an item may run Python code, which may change the list.
    py::handle operator[](size_t i) const {
        if (i >= size()) throw py::value_error("expected a list that keeps its length while it is read");
        return PySequence_Fast_GET_ITEM(list_.ptr(), static_cast<Py_ssize_t>(i));
    }

   private:
    py::object list_;
};

inline int64_t integer(const char* name, py::handle item, int64_t low, int64_t high, const char* expected) {
    if (PyLong_CheckExact(item.ptr())) {
        const int64_t value = PyLong_AsLongLong(item.ptr());
        if (value >= low && value <= high && !(value == -1 && PyErr_Occurred() != nullptr)) return value;
        PyErr_Clear();
    }
    const auto kept = py::reinterpret_borrow<py::object>(item);
    return py_checks::integer(name, kept, low, high, expected);
}

inline int64_t count(const char* name, py::handle item) { return integer(name, item, 0, kUnlimited, "an int >= 0"); }

inline int64_t key_of(const char* name, py::handle item, int64_t least) {
    return integer(name, item, least, UINT32_MAX, "ints from -1 to 2^32 - 1");
}

inline double finite(const char* name, py::handle item) {
    const bool runs_code = !PyFloat_CheckExact(item.ptr());
    const auto kept = runs_code ? py::reinterpret_borrow<py::object>(item) : py::object();
    return py_checks::number(name, item, -py_checks::kHuge, py_checks::kHuge, "finite numbers");
}

// The items of a column; a short one lies on the stack, for a wave of one is as common as one of a thousand.
template <typename T>
class ShortColumn {
   public:
    explicit ShortColumn(size_t size) : size_(size) {
        if (size > kShort) {
            long_.resize(size);
        } else {
            std::fill_n(short_, size, T{});
        }
    }
    ShortColumn(ShortColumn&&) = default;
    ShortColumn& operator=(ShortColumn&&) = default;
    T& operator[](size_t i) { return data()[i]; }
    const T& operator[](size_t i) const { return data()[i]; }
    T* data() { return long_.empty() ? short_ : long_.data(); }
    const T* data() const { return long_.empty() ? short_ : long_.data(); }
    size_t size() const { return size_; }
    const T& back() const { return data()[size_ - 1]; }
    void shrink(size_t size) { size_ = size; }  // what is no longer of it stays until the end

   private:
    static constexpr size_t kShort = 16;
    size_t size_;
    T short_[kShort];
    std::vector<T> long_;
};

inline ShortColumn<TicketId> tickets_of(const Items& items) {
    ShortColumn<TicketId> tickets(items.size());
    for (size_t i = 0; i < tickets.size(); ++i) {
        tickets[i] = static_cast<TicketId>(integer("tickets", items[i], 0, INT64_MAX, "tickets, ints >= 0"));
    }
    return tickets;
}

// Where the items of each ticket begin.
inline ShortColumn<uint32_t> offsets_of(py::handle counts, size_t size) {
    const Items items("counts", counts, size);
    ShortColumn<uint32_t> offsets(size + 1);
    uint64_t all = 0;
    for (size_t i = 0; i < size; ++i) {
        all += static_cast<uint64_t>(integer("counts", items[i], 0, 1 << 24, "ints from 0 to 2^24"));
        if (all > UINT32_MAX) py_checks::bad_value("counts", "a sum below 2^32", std::to_string(all));
        offsets[i + 1] = static_cast<uint32_t>(all);
    }
    return offsets;
}

inline ShortColumn<uint8_t> flags_of(const char* name, py::handle object, size_t size) {
    const Items items(name, object, size);
    ShortColumn<uint8_t> flags(size);
    for (size_t i = 0; i < size; ++i) {
        if (!PyBool_Check(items[i].ptr())) py_checks::bad_type(name, "bools", items[i]);
        flags[i] = items[i].ptr() == Py_True;
    }
    return flags;
}

inline ShortColumn<int64_t> counts_of(const char* name, py::handle object, size_t size) {
    const Items items(name, object, size);
    ShortColumn<int64_t> numbers(size);
    for (size_t i = 0; i < size; ++i) numbers[i] = count(name, items[i]);
    return numbers;
}

inline ShortColumn<double> numbers_of(const char* name, py::handle object, size_t size) {
    const Items items(name, object, size);
    ShortColumn<double> numbers(size);
    for (size_t i = 0; i < size; ++i) numbers[i] = finite(name, items[i]);
    return numbers;
}

inline ShortColumn<double> shares_of(const char* name, py::handle object, size_t size) {
    const Items items(name, object, size);
    ShortColumn<double> shares(size);
    for (size_t i = 0; i < size; ++i) shares[i] = py_checks::number(name, items[i], 0.0, 1.0, "numbers from 0 to 1");
    return shares;
}

// (tokens, prompt_tokens, tool_calls, cost); None in a place is `otherwise`.
inline Amounts amounts_of(const char* name, py::handle object, int64_t otherwise) {
    const Items items(name, object, kResources);
    Amounts amounts;
    for (size_t i = 0; i < kResources; ++i) amounts[i] = items[i].is_none() ? otherwise : count(name, items[i]);
    return amounts;
}

// A new list; set(i) gives a new reference.
template <typename Make>
py::object list_of(size_t size, Make make) {
    PyObject* list = PyList_New(static_cast<Py_ssize_t>(size));
    if (list == nullptr) throw py::error_already_set();
    for (size_t i = 0; i < size; ++i) PyList_SET_ITEM(list, static_cast<Py_ssize_t>(i), make(i));
    return py::reinterpret_steal<py::object>(list);
}

inline StepCost cost_of(py::handle tokens, py::handle other) {
    StepCost cost{count("tokens", tokens), 0, kNotGiven, kNotGiven, 0.0};
    if (other.is_none()) return cost;
    const Items items("others", other, 4);
    cost.prompt_tokens = count("prompt_tokens", items[0]);
    if (!items[1].is_none()) cost.tool_calls = count("tool_calls", items[1]);
    if (!items[2].is_none()) cost.cost = count("cost", items[2]);
    cost.seconds = py_checks::number("seconds", items[3], 0.0, py_checks::kHuge, "a number >= 0");
    return cost;
}

// Tokens, and beside them None or (prompt_tokens, tool_calls, cost, seconds), of each step.
inline ShortColumn<StepCost> costs_of(const Items& tokens, py::handle others) {
    ShortColumn<StepCost> costs(tokens.size());
    if (others.is_none()) {
        for (size_t i = 0; i < costs.size(); ++i) costs[i] = cost_of(tokens[i], py::none());
        return costs;
    }
    const Items items("others", others, costs.size());
    for (size_t i = 0; i < costs.size(); ++i) costs[i] = cost_of(tokens[i], items[i]);
    return costs;
}

// Admitted states, checked: those of ticket i are at offsets[i] .. offsets[i + 1].
struct StateColumns {
    StateColumns(size_t num_tickets, size_t num_states)
        : tickets(num_tickets),
          offsets(num_tickets + 1),
          terminal(num_states),
          verified(num_states),
          min_tokens(num_states) {}
    StateColumns(py::handle ids, py::handle counts, py::handle terminal, py::handle verified, py::handle least)
        : tickets(tickets_of(Items("tickets", ids))),
          offsets(offsets_of(counts, tickets.size())),
          terminal(flags_of("terminal", terminal, num_states())),
          verified(flags_of("verified", verified, num_states())),
          min_tokens(counts_of("min_tokens", least, num_states())) {
        for (size_t i = 0; i < num_states(); ++i) {
            if (this->verified[i] <= this->terminal[i]) continue;
            py_checks::bad_value("verified", "states that are terminal", "one that is not");
        }
    }
    size_t size() const { return tickets.size(); }
    size_t num_states() const { return offsets.back(); }

    ShortColumn<TicketId> tickets;
    ShortColumn<uint32_t> offsets;
    ShortColumn<uint8_t> terminal, verified;
    ShortColumn<int64_t> min_tokens;
};

// What a critic gave for admitted states, checked: with them, what `Engine::grow` takes.
class ScoreColumns {
   public:
    ScoreColumns(const StateColumns& states, py::handle outputs, py::handle weights, py::handle score_costs)
        : given_(py::reinterpret_borrow<py::object>(outputs)),
          outputs_(numbers_of("values", outputs, states.num_states())),
          weights_(0),
          has_weights_(!weights.is_none()),
          has_costs_(!score_costs.is_none()) {
        if (has_weights_) weights_ = numbers_of("weights", weights, states.num_states());
        if (!has_costs_) return;
        const Items items("score_costs", score_costs, states.size());
        for (size_t i = 0; i < states.size(); ++i) costs_.push_back(amounts_of("score_costs", items[i], 0));
    }

    WaveGrowth wave(const StateColumns& states, bool residual) const {
        return {states.tickets.data(),
                states.size(),
                states.offsets.data(),
                outputs_.data(),
                has_weights_ ? weights_.data() : nullptr,
                states.terminal.data(),
                states.verified.data(),
                states.min_tokens.data(),
                has_costs_ ? costs_.data() : nullptr,
                residual};
    }
    // V of a state as a new reference: what the critic gave, where it is that very number.
    PyObject* as_object(size_t at, double value) const {
        const auto i = static_cast<Py_ssize_t>(at);
        if (PyList_CheckExact(given_.ptr()) && i < PyList_GET_SIZE(given_.ptr())) {
            PyObject* output = PyList_GET_ITEM(given_.ptr(), i);
            if (PyFloat_CheckExact(output) && PyFloat_AS_DOUBLE(output) == value) {
                Py_INCREF(output);
                return output;
            }
        }
        return PyFloat_FromDouble(value);
    }
    // Whether some value was outside of [0, 1].
    bool clipped(bool residual) const {
        const auto outside = [](double output) { return output < 0.0 || output > 1.0; };
        return !residual && std::any_of(outputs_.data(), outputs_.data() + outputs_.size(), outside);
    }

   private:
    py::object given_;
    ShortColumn<double> outputs_;
    ShortColumn<double> weights_;
    std::vector<Amounts> costs_;
    bool has_weights_, has_costs_;
};

// Asks as they go to Python: slots, nodes, counts, tickets, limits and seeds, into the first places of a tuple.
inline void put_asks(const std::vector<WaveAsk>& asks, const py::tuple& columns) {
    const auto put = [&](size_t place, auto make) {
        PyTuple_SET_ITEM(columns.ptr(), static_cast<Py_ssize_t>(place),
                         list_of(asks.size(), [&](size_t i) { return make(asks[i]); }).release().ptr());
    };
    put(0, [](const WaveAsk& ask) { return PyLong_FromUnsignedLong(ask.slot); });
    put(1, [](const WaveAsk& ask) { return PyLong_FromUnsignedLong(ask.ask.node); });
    put(2, [](const WaveAsk& ask) { return PyLong_FromUnsignedLong(ask.ask.count); });
    put(3, [](const WaveAsk& ask) { return PyLong_FromUnsignedLongLong(ask.ticket); });
    put(4, [](const WaveAsk& ask) { return PyLong_FromLongLong(ask.ask.limit); });
    put(5, [](const WaveAsk& ask) { return PyLong_FromUnsignedLongLong(ask.ask.seed); });
}

inline py::object slots_of(const std::vector<Slot>& slots) {
    return list_of(slots.size(), [&](size_t i) { return PyLong_FromUnsignedLong(slots[i]); });
}

}  // namespace bavt::py_columns
