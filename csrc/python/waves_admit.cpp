// Answers on their way into the trees: steps -> states -> keys -> settled, duplicates dropped -> described -> nodes to be.
//
// The loops of `bavt_fast/waves.py`, which says what they are for; `bavt_fast/reference/waves.py` says the same in Python.
// A task's own functions run in between and may do anything: every object that is used after one is held on to.
#include "python/waves_admit.h"

namespace bavt::waves {
namespace {

constexpr int64_t kMost = int64_t{1} << 60;  // of what one step may report

bool is_one_of(PyObject* text, PyObject* const (&names)[2]) {
    if (text == names[0] || text == names[1]) return true;  // as a rule: both are interned
    if (!PyUnicode_Check(text)) return false;
    return PyUnicode_Compare(text, names[0]) == 0 || PyUnicode_Compare(text, names[1]) == 0;
}

bool is_amount(PyObject* number, int64_t low) {
    if (!PyLong_CheckExact(number)) return false;
    int overflow = 0;
    const int64_t value = PyLong_AsLongLongAndOverflow(number, &overflow);
    return overflow == 0 && value >= low && value <= kMost;
}

bool is_zero(PyObject* number) {
    if (PyFloat_CheckExact(number)) return PyFloat_AS_DOUBLE(number) == 0.0;
    return PyLong_CheckExact(number) && PyObject_IsTrue(number) == 0;
}

// A field of a step: of a class derived from Step it may be anything.
py::object field(PyObject* step, const Member& slot) {
    if (Py_TYPE(step) == objects.step) return borrowed(slot.get(step));
    return attribute(step, slot.name());
}

// The step as it is kept (`protocols.without_hidden`).
py::object without_hidden(PyObject* step) {
    const Member& hidden = objects.of_step.hidden;
    if (field(step, hidden).is_none()) return borrowed(step);
    if (Py_TYPE(step) != objects.step) return call(objects.without_hidden, step);
    py::object kept = stolen(objects.step->tp_alloc(objects.step, 0));
    for (const Member& slot : objects.step_fields) {
        slot.set(kept.ptr(), new_ref(slot.is(hidden) ? Py_None : slot.get(step)));
    }
    return kept;
}

// Whether a step needs no closer look.
bool is_good(PyObject* step) {
    if (Py_TYPE(step) != objects.step) return false;
    const auto& of = objects.of_step;
    PyObject* reason = of.finish_reason.get(step);
    return is_amount(of.tokens.get(step), 1) && PyUnicode_CheckExact(of.text.get(step)) &&
           (is_one_of(reason, objects.whole) || is_one_of(reason, objects.cut));
}

bool is_cut(PyObject* step) { return is_one_of(field(step, objects.of_step.finish_reason).ptr(), objects.cut); }

// Whether the engine prices all that the step cost, from the tokens that were written and read.
bool costs_tokens_alone(PyObject* step, PyObject* search) {
    const auto& of = objects.of_step;
    if (Py_TYPE(step) != objects.step || of.cost.get(step) != Py_None || of.tool_calls.get(step) != Py_None)
        return false;
    PyObject *read = of.prompt_tokens.get(step), *cached = of.cached_tokens.get(step);
    if (!is_zero(of.seconds.get(step)) || !is_amount(read, 0)) return false;
    if (is_zero(cached)) return true;
    const bool is_priced = rule_of(search, objects.of_rules.prices_cached) == Py_True;
    return !is_priced && is_amount(cached, 0) && PyLong_AsLongLong(cached) <= PyLong_AsLongLong(read);
}

bool may_be_known(PyObject* about) {
    if (Py_TYPE(about) != objects.description || PyTuple_GET_SIZE(about) != 5) return false;
    PyObject *terminal = PyTuple_GET_ITEM(about, 0), *verdict = PyTuple_GET_ITEM(about, 1);
    PyObject *answer = PyTuple_GET_ITEM(about, 2), *prompt = PyTuple_GET_ITEM(about, 3);
    const bool is_verdict = verdict == Py_None || (PyBool_Check(verdict) && terminal == Py_True);
    return PyBool_Check(terminal) && is_verdict && (answer == Py_None || PyUnicode_Check(answer)) &&
           (prompt == Py_None || PyUnicode_Check(prompt)) && is_amount(PyTuple_GET_ITEM(about, 4), 0);
}

// A description as the task gave it, checked; what is wrong with it is said in Python.
void require_description(PyObject* about) {
    if (!may_be_known(about)) call(objects.checked_description, about);
}

void append(PyObject* list, PyObject* item) {
    if (PyList_Append(list, item) != 0) throw py::error_already_set();
}

// One more step that was proposed from a node (`Node.add_try`). A list of steps that the collector need not look at need
// not be looked at either.
void add_try(PyObject* node, PyObject* step) {
    const Member& tried = objects.of_node.tried;
    PyObject* before = tried.get(node);
    if (before == Py_None) {
        tried.set(node, new_ref(step));
    } else if (PyList_CheckExact(before)) {
        append_tracked(before, step);
    } else {
        py::object steps = list_of(2, [&](size_t i) { return new_ref(i == 0 ? before : step); });
        if (!PyObject_GC_IsTracked(before) && !PyObject_GC_IsTracked(step)) PyObject_GC_UnTrack(steps.ptr());
        tried.set(node, steps.release().ptr());
    }
}

}  // namespace

Questions::Questions(py::handle searches, const ShortColumn<Slot>& slots, ShortColumn<NodeId> nodes)
    : searches_(slots.size()), numbers_(std::move(nodes)) {
    constexpr size_t kBlock = 16;  // in a wave over thousands of questions none of them is in the cache
    PyObject* found[kBlock];
    for (size_t begin = 0; begin < size(); begin += kBlock) {
        const size_t count = std::min(kBlock, size() - begin);
        for (size_t i = 0; i < count; ++i) {
            found[i] = PyDict_GetItemWithError(searches.ptr(), int_of(slots[begin + i]).ptr());
            __builtin_prefetch(found[i]);
        }
        for (size_t i = 0; i < count; ++i) searches_[begin + i] = borrowed(checked_search(found[i], slots[begin + i]));
    }
}

ShortColumn<Slot> slots_in(py::handle column) {
    const Items items("slots", column);
    ShortColumn<Slot> slots(items.size());
    for (size_t i = 0; i < slots.size(); ++i) {
        slots[i] = static_cast<Slot>(integer("slots", items[i], 0, UINT32_MAX, "slots of the engine"));
    }
    return slots;
}

ShortColumn<NodeId> nodes_in(py::handle column, size_t size) {
    const Items items("nodes", column, size);
    ShortColumn<NodeId> nodes(size);
    for (size_t i = 0; i < size; ++i) {
        nodes[i] = static_cast<NodeId>(integer("nodes", items[i], 0, UINT32_MAX, "ids of nodes"));
    }
    return nodes;
}

void Questions::fetch_ahead(size_t at) const {
    if (at + 5 * kAhead < size()) fetch_search(search(at + 5 * kAhead));
    if (at + 4 * kAhead < size()) fetch_parts(search(at + 4 * kAhead));
    if (at + 3 * kAhead < size()) fetch_entry(search(at + 3 * kAhead), number(at + 3 * kAhead));
    if (at + 2 * kAhead < size()) fetch_node(search(at + 2 * kAhead), number(at + 2 * kAhead));
    if (at + kAhead < size()) fetch_state(search(at + kAhead), number(at + kAhead));
}

Asks::Asks(py::handle searches, py::handle slots, py::handle nodes, py::handle tickets)
    : slots_(slots_in(slots)),
      tickets_(tickets_of(Items("tickets", tickets, slots_.size()))),
      questions_(searches, slots_, nodes_in(nodes, slots_.size())) {}

namespace {

template <typename T, typename Read>
ShortColumn<T> column_of(const std::vector<WaveAsk>& asks, Read read) {
    ShortColumn<T> column(asks.size());
    for (size_t i = 0; i < asks.size(); ++i) column[i] = read(asks[i]);
    return column;
}

}  // namespace

Asks::Asks(py::handle searches, const std::vector<WaveAsk>& asks)
    : slots_(column_of<Slot>(asks, [](const WaveAsk& ask) { return ask.slot; })),
      tickets_(column_of<TicketId>(asks, [](const WaveAsk& ask) { return ask.ticket; })),
      questions_(searches, slots_, column_of<NodeId>(asks, [](const WaveAsk& ask) { return ask.ask.node; })) {}

py::object Asks::slot_list() const {
    return list_of(size(), [&](size_t i) { return PyLong_FromUnsignedLong(slots_[i]); });
}

Answers::Answers(const Asks& asks, py::handle answers)
    : given_(borrowed(answers.ptr())), items_("answers", answers, asks.size()), offsets_(asks.size() + 1) {
    steps_.reserve(asks.size());
    for (size_t i = 0; i < asks.size(); ++i) {
        if (i + 2 * kAhead < asks.size()) __builtin_prefetch(items_[i + 2 * kAhead].ptr());
        if (i + kAhead < asks.size()) fetch_items(items_[i + kAhead].ptr());
        const py::object answer = borrowed(items_[i].ptr());
        if (PyObject_Size(answer.ptr()) < 0) throw py::error_already_set();  // a generator's, say, has none
        const Items steps("steps", answer);
        for (size_t at = 0; at < steps.size(); ++at) steps_.push_back(borrowed(steps[at].ptr()));
        offsets_[i + 1] = static_cast<uint32_t>(steps_.size());
    }
}

void Answers::fetch_ahead(size_t at) const {
    if (at + 2 * kAhead < num_steps()) fetch_object(step(at + 2 * kAhead));
    if (at + kAhead < num_steps()) fetch_text(step(at + kAhead));
}

// ---- Settling ------------------------------------------------------------------------------------------------------

namespace {

StepCost cost_of_step(PyObject* step, PyObject* search, size_t place) {
    if (!is_good(step)) call(objects.check, step, int_of(place).ptr());
    const py::object tokens = field(step, objects.of_step.tokens);
    if (costs_tokens_alone(step, search)) {
        StepCost cost = cost_of(tokens, py::none());
        cost.prompt_tokens = count("prompt_tokens", objects.of_step.prompt_tokens.get(step));
        return cost;
    }
    const py::object settings = attribute(search, objects.settings);
    return cost_of(tokens, call(objects.other_costs, step, settings.ptr(), int_of(place).ptr()));
}

double probability_of(PyObject* step, size_t place) {
    const py::object share = call(objects.probability_of, step, int_of(place).ptr());
    return py_checks::number("probabilities", share, 0.0, 1.0, "numbers from 0 to 1");
}

// The number of a key in its question: keys are numbered as they come.
int64_t number_of_key(PyObject* search, PyObject* state) {
    const py::object key_of_state = borrowed(rule_of(search, objects.of_rules.key));
    const py::object key = call(key_of_state.ptr(), state);
    const py::object known = borrowed(objects.of_search.keys.get(search));
    const py::object next = stolen(PyLong_FromSsize_t(PyObject_Size(known.ptr())));
    PyObject* number = PyDict_SetDefault(known.ptr(), key.ptr(), next.ptr());
    if (number == nullptr) throw py::error_already_set();
    return key_of("keys", number, 0);
}

struct Failure {
    size_t ask;
    py::object error;
};

}  // namespace

Settled settle(Engine& engine, py::handle searches, const Asks& asks, const Answers& answers, double now_s) {
    const size_t steps = answers.num_steps();
    ShortColumn<StepCost> costs(steps);
    ShortColumn<double> probabilities(steps);
    bool have_probabilities = false;
    for (size_t i = 0; i < asks.size(); ++i) {
        PyObject* search = asks.search(i);
        const bool counts_tried = rule_of(search, objects.of_rules.counts_tried) == Py_True;
        have_probabilities |= counts_tried;
        for (size_t at = answers.begin(i); at < answers.end(i); ++at) {
            answers.fetch_ahead(at);
            costs[at] = cost_of_step(answers.step(at), search, i);
            if (counts_tried) probabilities[at] = probability_of(answers.step(at), i);
        }
    }
    Settled settled(steps);
    std::vector<Failure> failed;
    for (size_t i = 0; i < asks.size(); ++i) {
        asks.questions().fetch_ahead(i);
        PyObject* search = asks.search(i);
        const py::object state = borrowed(objects.of_node.state.get(asks.node(i)));
        const py::object apply = borrowed(rule_of(search, objects.of_rules.apply));
        try {
            for (size_t at = answers.begin(i); at < answers.end(i); ++at) {
                answers.fetch_ahead(at);
                settled.keys[at] = -1;
                settled.states[at] = py::none();
                if (is_cut(answers.step(at))) continue;
                settled.states[at] = call(apply.ptr(), state.ptr(), answers.step(at));
                if (!settled.states[at].is_none()) settled.keys[at] = number_of_key(search, settled.states[at].ptr());
            }
        } catch (py::error_already_set& error) {  // its steps are charged all the same, and lead nowhere
            failed.push_back({i, call(objects.of_task, exception_in(error).ptr())});
            for (size_t at = answers.begin(i); at < answers.end(i); ++at) {
                settled.keys[at] = -1;
                settled.states[at] = py::none();
            }
        }
    }
    ShortColumn<uint32_t> found(asks.size());
    engine.admit({asks.tickets(), asks.size(), answers.offsets(), costs.data(), settled.keys.data(),
                  have_probabilities ? probabilities.data() : nullptr},
                 now_s, settled.is_new.data(), found.data());
    for (const Failure& failure : failed) {
        call(objects.fail, py::cast(&engine).ptr(), searches.ptr(), int_of(asks.slot(failure.ask)).ptr(),
             failure.error.ptr());
    }
    return settled;
}

py::object Settled::to_python() const {
    return py::make_tuple(list_of(keys.size(), [&](size_t i) { return PyLong_FromLongLong(keys[i]); }),
                          list_of(keys.size(), [&](size_t i) { return new_ref(states[i].ptr()); }),
                          list_of(keys.size(), [&](size_t i) { return PyBool_FromLong(is_new[i]); }));
}

Settled Settled::from_python(py::handle given, size_t steps) {
    const Items columns("settled", given, 3);
    const Items keys("keys", columns[0], steps), states("states", columns[1], steps);
    const ShortColumn<uint8_t> is_new = flags_of("is_new", columns[2], steps);
    Settled settled(steps);
    for (size_t i = 0; i < steps; ++i) {
        settled.keys[i] = key_of("keys", keys[i], -1);
        settled.states[i] = borrowed(states[i].ptr());
        settled.is_new[i] = is_new[i];
    }
    return settled;
}

// ---- Describing ----------------------------------------------------------------------------------------------------

namespace {

// What becomes of the states of a wave.
class Describing {
   public:
    Describing(Engine& engine, py::handle searches, const Asks& asks, const Answers& answers, const Settled& settled,
               py::object described)
        : engine_(engine),
          searches_(searches),
          asks_(asks),
          answers_(answers),
          settled_(settled),
          described_(std::move(described)),
          admitted_(asks.size(), answers.num_steps()) {}

    Admitted admitted() {
        for (size_t i = 0; i < asks_.size(); ++i) {
            asks_.questions().fetch_ahead(i);
            describe_ask(i);
        }
        StateColumns& states = admitted_.states;
        states.tickets.shrink(num_kept_), states.offsets.shrink(num_kept_ + 1);
        states.terminal.shrink(num_states_), states.verified.shrink(num_states_), states.min_tokens.shrink(num_states_);
        admitted_.slots.shrink(num_kept_), admitted_.parents.shrink(num_kept_), admitted_.searches.shrink(num_kept_);
        admitted_.nodes.shrink(num_states_);
        return std::move(admitted_);
    }

   private:
    void describe_ask(size_t i) {
        const size_t first = num_states_;
        PyObject* search = asks_.search(i);
        const py::object observer = borrowed(objects.of_search.observer.get(search));
        py::object abouts = observer.is_none() ? py::object() : py::object(py::list());
        bool found = false;
        try {
            const py::object parent = borrowed(asks_.node(i));
            for (size_t at = answers_.begin(i); at < answers_.end(i); ++at) {
                answers_.fetch_ahead(at);
                if (at + kAhead < answers_.num_steps()) fetch_object(settled_.states[at + kAhead].ptr());
                found |= describe_step(i, at, search, parent.ptr(), abouts.ptr());
            }
        } catch (py::error_already_set& raised) {
            const py::object error = call(objects.of_task, exception_in(raised).ptr());
            num_states_ = first;
            engine_.cancel(asks_.ticket(i), nullptr, 0);
            if (abouts) {
                call(attribute(observer.ptr(), objects.cancelled).ptr(), search, int_of(asks_.ticket(i)).ptr(),
                     error.ptr());
            }
            call(objects.fail, py::cast(&engine_).ptr(), searches_.ptr(), int_of(asks_.slot(i)).ptr(), error.ptr());
            return;
        }
        if (abouts) {
            call(attribute(observer.ptr(), objects.admitted).ptr(), search, int_of(asks_.number(i)).ptr(),
                 int_of(asks_.ticket(i)).ptr(), answers_.of_ask(i).ptr(), int_of(num_states_ - first).ptr(),
                 abouts.ptr());
        }
        if (found) keep(i);
    }

    // An ask that brought something new, be it refuted.
    void keep(size_t i) {
        admitted_.states.tickets[num_kept_] = asks_.ticket(i);
        admitted_.slots[num_kept_] = asks_.slot(i);
        admitted_.parents[num_kept_] = asks_.number(i);
        admitted_.searches[num_kept_] = borrowed(asks_.search(i));
        admitted_.states.offsets[++num_kept_] = static_cast<uint32_t>(num_states_);
    }

    // Whether the state is new.
    bool describe_step(size_t i, size_t at, PyObject* search, PyObject* parent, PyObject* abouts) {
        PyObject* step = answers_.step(at);
        const py::object kept = without_hidden(step);
        if (!untrack_step(kept.ptr()) && !PyObject_GC_IsTracked(parent)) {
            reveal(search);
            for (size_t earlier = 0; earlier < num_states_; ++earlier) track(admitted_.nodes[earlier].ptr());
        }
        add_try(parent, kept.ptr());
        if (!settled_.is_new[at]) {
            refuse(i, search, why(kept.ptr(), settled_.keys[at]), kept.ptr(), -1);
            return false;
        }
        const py::object about = description(search, at);
        if (about.ptr() != known_.ptr()) require_description(about.ptr()), known_ = about;
        if (abouts != nullptr) append(abouts, about.ptr());
        PyObject* const* fields = reinterpret_cast<PyTupleObject*>(about.ptr())->ob_item;
        PyObject *terminal = fields[0], *verdict = fields[1], *answer = fields[2], *prompt = fields[3];
        if (verdict == Py_False) {
            refuse(i, search, borrowed(objects.refuted), kept.ptr(), settled_.keys[at]);
            return true;
        }
        py::object node = new_node(settled_.states[at].ptr(), prompt, parent, step);
        if (terminal == Py_True && answer != Py_None && PyUnicode_GET_LENGTH(answer) > 0) {
            objects.of_node.answer.set(node.ptr(), new_ref(answer));
            if (is_tracked(answer)) track(node.ptr());
        }
        if (kept.ptr() != step) {
            if (!admitted_.slim) admitted_.slim = py::dict();
            admitted_.slim[node] = kept;
        }
        admitted_.states.terminal[num_states_] = terminal == Py_True;
        admitted_.states.verified[num_states_] = verdict == Py_True;
        admitted_.states.min_tokens[num_states_] = count("min_tokens", fields[4]);
        admitted_.nodes[num_states_++] = std::move(node);
        return true;
    }

    py::object description(PyObject* search, size_t at) {
        const py::object describe = borrowed(rule_of(search, objects.of_rules.describe));
        if (described_.is_none() && describe.is_none()) {
            described_ = call(objects.described_many, searches_.ptr(), asks_.slot_list().ptr(), answers_.given().ptr(),
                              settled_.to_python().ptr());
        }
        if (described_.is_none()) return call(describe.ptr(), settled_.states[at].ptr());
        py::object about = stolen(PyObject_GetItem(described_.ptr(), int_of(at).ptr()));
        if (PyObject_IsInstance(about.ptr(), PyExc_Exception) != 1) return about;
        PyErr_SetObject(reinterpret_cast<PyObject*>(Py_TYPE(about.ptr())), about.ptr());
        throw py::error_already_set();
    }

    py::object why(PyObject* step, int64_t key) const {
        if (key >= 0) return borrowed(objects.duplicate);
        return is_cut(step) ? field(step, objects.of_step.finish_reason) : borrowed(objects.invalid);
    }

    // Keeps a step that led to no new state, or to one that the task refutes.
    void refuse(size_t i, PyObject* search, const py::object& reason, PyObject* step, int64_t key) {
        const py::object number = stolen(PyLong_FromLongLong(key));
        const py::object refusal =
            stolen(PyTuple_Pack(4, int_of(asks_.number(i)).ptr(), reason.ptr(), step, number.ptr()));
        if (!is_tracked(step)) PyObject_GC_UnTrack(refusal.ptr());
        append_tracked(objects.of_search.refused.get(search), refusal.ptr());
    }

    Engine& engine_;
    py::handle searches_;
    const Asks& asks_;
    const Answers& answers_;
    const Settled& settled_;
    py::object described_;
    py::object known_;  // a description that was checked: tasks may give the same one again and again
    Admitted admitted_;
    size_t num_kept_ = 0, num_states_ = 0;
};

}  // namespace

Admitted describe(Engine& engine, py::handle searches, const Asks& asks, const Answers& answers, const Settled& settled,
                  py::object described) {
    return Describing(engine, searches, asks, answers, settled, std::move(described)).admitted();
}

}  // namespace bavt::waves
