// See waves_admit.cpp.
#pragma once

#include <vector>

#include "python/wave_objects.h"

namespace bavt::waves {

using namespace bavt::py_columns;

// The searches and nodes that a wave is about.
class Questions {
   public:
    Questions(py::handle searches, const Items& slots, const Items& nodes);

    size_t size() const { return searches_.size(); }
    PyObject* search(size_t i) const { return searches_[i].ptr(); }
    PyObject* node(size_t i) const { return node_in(search(i), numbers_[i]); }

    // A wave over thousands of questions finds little of them in the cache.
    void fetch_ahead(size_t at) const;

   private:
    std::vector<py::object> searches_;
    std::vector<size_t> numbers_;
};

// Asks that are out, as a driver keeps them.
class Asks {
   public:
    Asks(py::handle searches, py::handle slots, py::handle nodes, py::handle tickets);

    size_t size() const { return questions_.size(); }
    PyObject* search(size_t i) const { return questions_.search(i); }
    PyObject* node(size_t i) const { return questions_.node(i); }
    void fetch_ahead(size_t at) const { questions_.fetch_ahead(at); }
    const TicketId* tickets() const { return tickets_.data(); }
    PyObject* slot(size_t i) const { return slot_items_[i].ptr(); }
    PyObject* number(size_t i) const { return node_items_[i].ptr(); }
    PyObject* ticket(size_t i) const { return Items("tickets", ids_)[i].ptr(); }
    const py::object& slots() const { return slots_; }
    const py::object& node_list() const { return nodes_; }
    const py::object& ticket_list() const { return ids_; }

   private:
    py::object slots_, nodes_, ids_;
    Items slot_items_, node_items_;
    Questions questions_;
    ShortColumn<TicketId> tickets_;
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

   private:
    py::object given_;
    Items items_;
    std::vector<uint32_t> offsets_;
    std::vector<py::object> steps_;
};

// Of steps whose cost is settled: the numbers of their states' keys, the states, and whether each is new.
struct Settled {
    explicit Settled(size_t steps) : keys(steps), states(steps), is_new(steps) {}
    py::object to_python() const;
    static Settled from_python(py::handle given, size_t steps);

    ShortColumn<int64_t> keys;
    std::vector<py::object> states;
    ShortColumn<uint8_t> is_new;
};

// Throws what the Python of it raises; of a step that is none nothing has changed.
Settled settle(Engine& engine, py::handle searches, const Asks& asks, const Answers& answers, double now_s);

py::object describe(Engine& engine, py::handle searches, const Asks& asks, const Answers& answers,
                    const Settled& settled, py::object described);

}  // namespace bavt::waves
