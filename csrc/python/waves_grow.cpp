// Nodes to be, between the answers that brought them and the values that their critic gives: `Pending` in Python.
#include "python/waves_admit.h"

namespace bavt::waves {

Admitted Admitted::from_python(py::handle searches, py::handle pending) {
    if (Py_TYPE(pending.ptr()) != objects.pending) py_checks::bad_type("pending", "a Pending", pending);
    const auto& of = objects.of_pending;
    const auto column = [&](const Member& slot) { return borrowed(slot.get(pending.ptr())); };
    const py::object slots = column(of.slots), parents = column(of.parents), nodes = column(of.nodes);
    const py::object slim = column(of.slim);
    Admitted made(StateColumns(column(of.tickets), column(of.counts), column(of.terminal), column(of.verified),
                               column(of.least)));
    made.slots = slots_in(slots);
    made.parents = nodes_in(parents, made.states.size());
    if (made.slots.size() != made.states.size()) {
        py_checks::bad_value("slots", std::to_string(made.states.size()) + " items", std::to_string(made.slots.size()));
    }
    for (size_t i = 0; i < made.slots.size(); ++i) {
        made.searches[i] = borrowed(search_in(searches, made.slots[i]));
    }
    const Items items("nodes", nodes, made.states.num_states());
    for (size_t at = 0; at < items.size(); ++at) {
        if (!PyObject_TypeCheck(items[at].ptr(), objects.node)) py_checks::bad_type("nodes", "a Node", items[at]);
        made.nodes[at] = borrowed(items[at].ptr());
    }
    if (!slim.is_none()) made.slim = slim;
    return made;
}

py::object Admitted::node_list() const {
    return list_of(nodes.size(), [&](size_t i) { return new_ref(nodes[i].ptr()); });
}

py::object Admitted::to_python() const {
    const auto flags = [](const ShortColumn<uint8_t>& column) {
        return list_of(column.size(), [&](size_t i) { return PyBool_FromLong(column[i]); });
    };
    const size_t size = states.size();
    const py::object pending = stolen(objects.pending->tp_alloc(objects.pending, 0));
    const auto fill = [&](const Member& slot, py::object value) { slot.set(pending.ptr(), value.release().ptr()); };
    const auto& of = objects.of_pending;
    fill(of.slots, list_of(size, [&](size_t i) { return PyLong_FromUnsignedLong(slots[i]); }));
    fill(of.tickets, list_of(size, [&](size_t i) { return PyLong_FromUnsignedLongLong(states.tickets[i]); }));
    fill(of.parents, list_of(size, [&](size_t i) { return PyLong_FromUnsignedLong(parents[i]); }));
    fill(of.counts,
         list_of(size, [&](size_t i) { return PyLong_FromUnsignedLong(states.offsets[i + 1] - states.offsets[i]); }));
    fill(of.nodes, node_list());
    fill(of.terminal, flags(states.terminal));
    fill(of.verified, flags(states.verified));
    fill(of.least, list_of(states.num_states(), [&](size_t i) { return PyLong_FromLongLong(states.min_tokens[i]); }));
    fill(of.slim, slim ? slim : py::object(py::none()));
    fill(of.search, py::none());
    return pending;
}

namespace {

// What the searches do whose trees did not grow after all.
void mend(const Admitted& admitted) {
    for (size_t i = 0; i < admitted.searches.size(); ++i) {
        call(attribute(admitted.searches[i].ptr(), objects.mend).ptr());
    }
}

// An entry for each node to be. Before the trees grow: wherever Ctrl-C breaks in, each node of a tree has its entry.
void append_entries(const Admitted& admitted) {
    const auto& searches = admitted.searches;
    for (size_t i = 0; i < searches.size(); ++i) {
        if (i + 3 * kAhead < searches.size()) fetch_search(searches[i + 3 * kAhead].ptr());
        if (i + 2 * kAhead < searches.size()) fetch_parts(searches[i + 2 * kAhead].ptr());
        if (i + kAhead < searches.size()) fetch_end(searches[i + kAhead].ptr());
        PyObject* entries = objects.of_search.nodes.get(searches[i].ptr());
        for (uint32_t at = admitted.states.offsets[i]; at < admitted.states.offsets[i + 1]; ++at) {
            append_node(entries, admitted.nodes[at].ptr());
        }
    }
}

bool is_observed(const Admitted& admitted) {
    bool observed = false;
    for (size_t i = 0; i < admitted.searches.size(); ++i) {
        observed |= objects.of_search.observer.get(admitted.searches[i].ptr()) != Py_None;
    }
    return observed;
}

void set_values(const Admitted& admitted, const ScoreColumns& scores, const ShortColumn<double>& values) {
    for (size_t at = 0; at < values.size(); ++at) {
        if (at + kAhead < values.size()) fetch_object(admitted.nodes[at + kAhead].ptr());
        PyObject* node = admitted.nodes[at].ptr();
        objects.of_node.value.set(node, stolen(scores.as_object(at, values[at])).release().ptr());
        if (!admitted.slim) continue;
        PyObject* step = PyDict_GetItemWithError(admitted.slim.ptr(), node);
        if (step != nullptr) objects.of_node.step.set(node, new_ref(step));
        if (step == nullptr && PyErr_Occurred() != nullptr) throw py::error_already_set();
    }
}

void take_back(Engine& engine, NextAsks& next) {
    for (const WaveAsk& ask : next.asks) engine.cancel(ask.ticket, nullptr, 0);
    next.asks.clear();
}

}  // namespace

bool grow(Engine& engine, py::handle searches, const Admitted& admitted, const ScoreColumns& scores, double now_s,
          bool residual, py::handle score_costs, NextAsks* next) {
    ShortColumn<NodeId> first(admitted.states.size());
    ShortColumn<double> values(admitted.states.num_states());
    const WaveGrowth wave = scores.wave(admitted.states, residual);
    const bool clipped = scores.clipped(residual), observed = is_observed(admitted);
    try {
        append_entries(admitted);
        if (next == nullptr || clipped || observed) {
            engine.grow(wave, now_s, first.data(), values.data());
        } else {
            engine.grow_and_ask(wave, now_s, first.data(), values.data(), next->limit, &next->asks);
        }
    } catch (...) {
        if (next != nullptr) take_back(engine, *next);
        mend(admitted);
        throw;
    }
    try {
        set_values(admitted, scores, values);
    } catch (...) {
        if (next != nullptr) take_back(engine, *next);
        throw;
    }
    if (observed) call(objects.note_growth, searches.ptr(), admitted.to_python().ptr(), score_costs.ptr());
    return clipped;
}

}  // namespace bavt::waves
