// See waves_admit.cpp.
#pragma once

#include <vector>

#include "python/wave_objects.h"

namespace bavt::waves {

using namespace bavt::py_columns;

// The searches and nodes that a wave is about.
class Questions {
   public:
    Questions(py::handle searches, const ShortColumn<Slot>& slots, ShortColumn<NodeId> nodes);

    size_t size() const { return searches_.size(); }
    PyObject* search(size_t i) const { return searches_[i].ptr(); }
    PyObject* node(size_t i) const { return node_in(search(i), numbers_[i]); }
    NodeId number(size_t i) const { return numbers_[i]; }

    // A wave over thousands of questions finds little of them in the cache.
    void fetch_ahead(size_t at) const;

   private:
    ShortColumn<py::object> searches_;
    ShortColumn<NodeId> numbers_;
};

ShortColumn<Slot> slots_in(py::handle column);
ShortColumn<NodeId> nodes_in(py::handle column, size_t size);

// Asks that are out: as a driver keeps them, or as the engine has just given them.
class Asks {
   public:
    Asks(py::handle searches, py::handle slots, py::handle nodes, py::handle tickets);
    Asks(py::handle searches, const std::vector<WaveAsk>& asks);

    size_t size() const { return slots_.size(); }
    const Questions& questions() const { return questions_; }
    PyObject* search(size_t i) const { return questions_.search(i); }
    PyObject* node(size_t i) const { return questions_.node(i); }
    Slot slot(size_t i) const { return slots_[i]; }
    NodeId number(size_t i) const { return questions_.number(i); }
    TicketId ticket(size_t i) const { return tickets_[i]; }
    const TicketId* tickets() const { return tickets_.data(); }
    py::object slot_list() const;

   private:
    ShortColumn<Slot> slots_;
    ShortColumn<TicketId> tickets_;
    Questions questions_;
};

// Their answers: steps, of all asks one after the other. What a task does to a list meanwhile changes nothing.
class Answers {
   public:
    Answers(const Asks& asks, py::handle answers);

    size_t num_steps() const { return steps_.size(); }
    size_t begin(size_t ask) const { return offsets_[ask]; }
    size_t end(size_t ask) const { return offsets_[ask + 1]; }
    const uint32_t* offsets() const { return offsets_.data(); }
    PyObject* step(size_t at) const { return steps_[at].ptr(); }
    py::object of_ask(size_t ask) const { return borrowed(items_[ask].ptr()); }
    const py::object& given() const { return given_; }
    void fetch_ahead(size_t at) const;

   private:
    py::object given_;
    Items items_;
    ShortColumn<uint32_t> offsets_;
    std::vector<py::object> steps_;
};

// Of steps whose cost is settled: the numbers of their states' keys, the states, and whether each is new.
struct Settled {
    explicit Settled(size_t steps) : keys(steps), states(steps), is_new(steps) {}
    py::object to_python() const;
    static Settled from_python(py::handle given, size_t steps);

    ShortColumn<int64_t> keys;
    ShortColumn<py::object> states;
    ShortColumn<uint8_t> is_new;
};

// Throws what the Python of it raises; of a step that is none nothing has changed.
Settled settle(Engine& engine, py::handle searches, const Asks& asks, const Answers& answers, double now_s);

// Nodes to be, of the asks that brought something new: what is `Pending` in Python.
struct Admitted {
    Admitted(size_t num_asks, size_t num_states)
        : states(num_asks, num_states), slots(num_asks), parents(num_asks), searches(num_asks), nodes(num_states) {}
    static Admitted from_python(py::handle searches, py::handle pending);
    py::object to_python() const;
    py::object node_list() const;

    StateColumns states;
    ShortColumn<Slot> slots;
    ShortColumn<NodeId> parents;
    ShortColumn<py::object> searches, nodes;
    py::object slim;  // of nodes whose step has a hidden state, the step without it; null for none

   private:
    explicit Admitted(StateColumns columns)
        : states(std::move(columns)),
          slots(states.size()),
          parents(states.size()),
          searches(states.size()),
          nodes(states.num_states()) {}
};

Admitted describe(Engine& engine, py::handle searches, const Asks& asks, const Answers& answers, const Settled& settled,
                  py::object described);

// What the engine is asked for as trees grow.
struct NextAsks {
    size_t limit;
    std::vector<WaveAsk> asks;
};

// Whether a value was outside of [0, 1], and clipped. Throws where nothing has changed. `next` may be null; where anybody
// has to look at the growth first, nothing is asked for.
bool grow(Engine& engine, py::handle searches, const Admitted& admitted, const ScoreColumns& scores, double now_s,
          bool residual, py::handle score_costs, NextAsks* next = nullptr);

}  // namespace bavt::waves
