// The Python surface of the engine: checks and converts columns, no logic. The GIL is held throughout: a call takes a
// microsecond or so.
#include "engine/engine.h"

#include <pybind11/stl.h>

#include <algorithm>
#include <array>

#include "python/checks.h"
#include "python/columns.h"

namespace py = pybind11;
using namespace pybind11::literals;

void bind_engine(py::module_& m);

namespace {

namespace checks = bavt::py_checks;
using namespace bavt::py_columns;
using bavt::Account;
using bavt::Amounts;
using bavt::Engine;
using bavt::kResources;
using bavt::Question;
using bavt::SearchOptions;
using bavt::StopReason;
using bavt::TicketId;

constexpr const char* kStopNames[bavt::kStopReasons] = {
    "", "solved", "budget", "deadline", "exhausted", "max_nodes", "cancelled", "interrupted", "error"};

py::tuple tuple_of(const Amounts& amounts, bool none_if_unlimited = false) {
    py::tuple items(kResources);
    for (size_t i = 0; i < kResources; ++i) {
        const bool none = none_if_unlimited && amounts[i] == bavt::kUnlimited;
        items[i] = none ? py::object(py::none()) : py::object(py::int_(amounts[i]));
    }
    return items;
}

// ---- Options, account, question ------------------------------------------------------------------------------------

std::shared_ptr<SearchOptions> make_options(py::handle policy, double exploration, double decay, double discount,
                                            double tried_exponent, double widening_scale, double widening_exponent,
                                            py::handle candidates, py::handle patience, py::handle max_nodes,
                                            py::handle max_step_tokens, py::handle max_step_prompt_tokens,
                                            py::handle step_tool_calls, py::handle max_step_cost,
                                            py::handle token_price, py::handle prompt_token_price,
                                            py::handle max_score) {
    const char* from_1 = "an int >= 1";
    auto made = std::make_shared<SearchOptions>();
    SearchOptions& options = *made;
    options.policy = checks::policy(policy);
    options.exploration = exploration, options.decay = decay, options.discount = discount;
    options.tried_exponent = tried_exponent;
    options.widening_scale = widening_scale, options.widening_exponent = widening_exponent;
    options.candidates =
        static_cast<uint32_t>(integer("candidates", candidates, 1, bavt::kMaxCandidates, "an int from 1 to 65,536"));
    options.patience =
        static_cast<uint32_t>(integer("patience", patience, 1, bavt::kMaxPatience, "an int from 1 to 60,000"));
    options.max_nodes = checks::node_limit(max_nodes, py::none(), options.max_nodes);
    options.max_step_tokens = integer("max_step_tokens", max_step_tokens, 1, bavt::kUnlimited - 1, from_1);
    options.max_step_prompt_tokens = count("max_step_prompt_tokens", max_step_prompt_tokens);
    options.step_tool_calls = count("step_tool_calls", step_tool_calls);
    options.max_step_cost = count("max_step_cost", max_step_cost);
    options.token_price = count("token_price", token_price);
    options.prompt_token_price = count("prompt_token_price", prompt_token_price);
    options.max_score = amounts_of("max_score", max_score, 0);
    options.powers = std::make_shared<const bavt::DecayPowers>(decay);
    return made;
}

bavt::Limits limits_of(py::handle limits, py::handle seconds) {
    bavt::Limits made;
    made.amounts = amounts_of("limits", limits, bavt::kUnlimited);
    for (const int64_t limit : made.amounts.of) {
        if (limit == 0) checks::bad_value("limits", "ints >= 1 or None", "0");
    }
    constexpr double kLeast = std::numeric_limits<double>::denorm_min();
    if (!seconds.is_none()) made.seconds = checks::number("seconds", seconds, kLeast, checks::kHuge, "a number > 0");
    return made;
}

std::shared_ptr<Question> make_question(py::handle seed, py::handle limits, py::handle seconds,
                                        const std::shared_ptr<SearchOptions>& options, double root_value,
                                        py::handle min_tokens, bool terminal, bool verified) {
    if (verified && !terminal) checks::bad_value("verified", "a state that is terminal", "one that is not");
    const Question::Root root{root_value, count("min_tokens", min_tokens), terminal, verified};
    return std::make_shared<Question>(checks::seed(seed), limits_of(limits, seconds), options, root);
}

py::object stop_reason(const Question& question) {
    if (question.stop_reason() == StopReason::kNone) return py::none();
    return py::str(kStopNames[static_cast<size_t>(question.stop_reason())]);
}

StopReason stop_reason_of(const std::string& name) {
    const auto found = std::find(std::begin(kStopNames) + 2, std::end(kStopNames), name);
    if (found == std::end(kStopNames)) checks::bad_value("reason", "a stop reason other than 'solved'", name);
    return static_cast<StopReason>(found - std::begin(kStopNames));
}

py::tuple ask_tuple(const bavt::Ask& ask) {
    return py::make_tuple(ask.ticket, ask.node, ask.count, ask.limit, ask.seed, ask.tried);
}

// ---- Waves ---------------------------------------------------------------------------------------------------------

py::tuple ask(Engine& engine, size_t limit, double now_s) {
    std::vector<bavt::WaveAsk> asks;
    std::vector<bavt::Slot> stopped;
    engine.ask(limit, now_s, &asks, &stopped);
    py::tuple columns(7);
    put_asks(asks, columns);
    columns[6] = slots_of(stopped);
    return columns;
}

py::object admit(Engine& engine, double now_s, py::handle tickets, py::handle counts, py::handle tokens,
                 py::handle keys, py::handle others, py::handle probabilities) {
    const ShortColumn<TicketId> ids = tickets_of(Items("tickets", tickets));
    const ShortColumn<uint32_t> offsets = offsets_of(counts, ids.size());
    const size_t steps = offsets.back();
    const Items token_items("tokens", tokens, steps), key_items("keys", keys, steps);
    const ShortColumn<bavt::StepCost> costs = costs_of(token_items, others);
    ShortColumn<int64_t> key_ids(steps);
    for (size_t i = 0; i < steps; ++i) {
        key_ids[i] = key_of("keys", key_items[i], -1);
    }
    ShortColumn<double> by_probability(0);
    if (!probabilities.is_none()) by_probability = shares_of("probabilities", probabilities, steps);
    ShortColumn<uint8_t> is_new(steps);
    ShortColumn<uint32_t> found(ids.size());
    engine.admit({ids.data(), ids.size(), offsets.data(), costs.data(), key_ids.data(),
                  probabilities.is_none() ? nullptr : by_probability.data()},
                 now_s, is_new.data(), found.data());
    return list_of(steps, [&](size_t i) { return PyBool_FromLong(is_new[i]); });
}

py::tuple grow(Engine& engine, double now_s, py::handle tickets, py::handle counts, py::handle outputs,
               py::handle terminal, py::handle verified, py::handle min_tokens, py::handle weights, bool residual,
               py::handle score_costs) {
    const StateColumns states(tickets, counts, terminal, verified, min_tokens);
    const ScoreColumns scores(states, outputs, weights, score_costs);
    ShortColumn<bavt::NodeId> first(states.size());
    ShortColumn<double> values(states.num_states());
    engine.grow(scores.wave(states, residual), now_s, first.data(), values.data());
    return py::make_tuple(list_of(first.size(), [&](size_t i) { return PyLong_FromUnsignedLong(first[i]); }),
                          list_of(values.size(), [&](size_t i) { return PyFloat_FromDouble(values[i]); }),
                          scores.clipped(residual));
}

void cancel(Engine& engine, py::handle ticket, py::handle tokens, py::handle others) {
    const auto id = static_cast<TicketId>(integer("ticket", ticket, 0, INT64_MAX, "a ticket"));
    const ShortColumn<bavt::StepCost> costs = costs_of(Items("tokens", tokens), others);
    engine.cancel(id, costs.data(), static_cast<uint32_t>(costs.size()));
}

std::unique_ptr<bavt::Tree> tree_of(const Question& question) { return question.tree().clone(); }

py::bytes question_bytes(const Question& question) { return question.to_bytes(); }

std::shared_ptr<Question> question_from(const py::bytes& data) {
    const auto bytes = std::string_view(data);
    return Question::from_bytes(bytes.data(), bytes.size());
}

py::tuple counts_tuple(const Question& question) {
    const Question::Counts& counts = question.counts();
    return py::make_tuple(counts.invalid, counts.duplicate, counts.refuted);
}

py::list open_asks(const Question& question) {
    py::list asks;
    for (const bavt::Ask& ask : question.open_asks()) asks.append(ask_tuple(ask));
    return asks;
}

py::list claims(const Question& question) {
    py::list claims;
    for (const auto& [ticket, of] : question.claims()) {
        claims.append(py::make_tuple(ticket, py::make_tuple(of[0], of[1], of[2], of[3])));
    }
    return claims;
}

void bind_options(py::module_& m) {
    py::class_<SearchOptions, std::shared_ptr<SearchOptions>>(m, "SearchOptions")
        .def(py::init(&make_options), py::kw_only(), "policy"_a, "exploration"_a, "decay"_a, "discount"_a,
             "tried_exponent"_a, "widening_scale"_a, "widening_exponent"_a, "candidates"_a, "patience"_a, "max_nodes"_a,
             "max_step_tokens"_a, "max_step_prompt_tokens"_a, "step_tool_calls"_a, "max_step_cost"_a, "token_price"_a,
             "prompt_token_price"_a, "max_score"_a);
}

void bind_account(py::module_& m) {
    py::class_<Account>(m, "Account")
        .def(py::init([](py::handle limits, py::handle seconds) { return Account(limits_of(limits, seconds)); }),
             "limits"_a, "seconds"_a)
        .def("set_elapsed", &Account::set_elapsed, "seconds"_a)
        .def(
            "first_short",
            [](const Account& a, py::handle asked) { return a.first_short(amounts_of("asked", asked, 0)); }, "asked"_a)
        .def(
            "reserve", [](Account& a, py::handle asked) { a.reserve(amounts_of("asked", asked, 0)); }, "asked"_a)
        .def(
            "settle",
            [](Account& a, py::handle claim, py::handle actual) {
                a.settle(amounts_of("claim", claim, 0), amounts_of("actual", actual, 0));
            },
            "claim"_a, "actual"_a)
        .def_property_readonly("spent", [](const Account& a) { return tuple_of(a.spent()); })
        .def_property_readonly("reserved", [](const Account& a) { return tuple_of(a.reserved()); })
        .def_property_readonly("overrun", [](const Account& a) { return tuple_of(a.overrun()); })
        .def_property_readonly("elapsed_s", &Account::elapsed_s)
        .def_property_readonly("remaining_ratio", &Account::remaining_ratio)
        .def_property_readonly("exhausted", &Account::exhausted)
        .def_property_readonly("left", [](const Account& a) {
            Amounts left;
            for (size_t i = 0; i < kResources; ++i) left[i] = a.left(i);
            return tuple_of(left, true);
        });
}

void bind_question(py::module_& m) {
    py::class_<Question, std::shared_ptr<Question>>(m, "Question")
        .def(py::init(&make_question), "seed"_a, "limits"_a, "seconds"_a, py::arg("options").none(false),
             "root_value"_a, "min_tokens"_a, "terminal"_a, "verified"_a)
        .def_property_readonly("account", &Question::account, py::return_value_policy::copy)
        .def_property_readonly("tree", &tree_of)
        .def_property_readonly("num_nodes", [](const Question& q) { return q.tree().num_nodes(); })
        .def_property_readonly("stop_reason", &stop_reason)
        .def_property_readonly("in_flight", &Question::in_flight)
        .def_property_readonly("has_overrun",
                               [](const Question& q) {
                                   const Amounts& overrun = q.account().overrun();
                                   return std::any_of(std::begin(overrun.of), std::end(overrun.of),
                                                      [](int64_t amount) { return amount > 0; });
                               })
        .def_property_readonly("seed", &Question::seed)
        .def_property_readonly("asks", &Question::asks)
        .def_property_readonly("counts", &counts_tuple)
        .def_property_readonly("memory_bytes", &Question::memory_bytes)
        .def("set_time", &Question::set_time, "now_s"_a)
        .def("change_clock", &Question::change_clock)
        .def("best_path", &Question::best_path)
        .def(
            "see_key", [](Question& q, py::handle key) { q.see_key(key_of("key", key, 0)); }, "key"_a)
        .def(
            "knows_key", [](const Question& q, py::handle key) { return q.knows_key(key_of("key", key, 0)); }, "key"_a)
        .def("open_asks", &open_asks)
        .def("claims", &claims)
        .def("to_bytes", &question_bytes)
        .def_static("from_bytes", &question_from, "data"_a);
}

}  // namespace

void bind_engine(py::module_& m) {
    py::register_exception<bavt::TicketError>(m, "TicketError", PyExc_ValueError);
    bind_options(m);
    bind_account(m);
    bind_question(m);
    py::class_<Engine>(m, "Engine")
        .def(py::init([](py::handle leaves) {
                 return std::make_unique<Engine>(
                     static_cast<uint32_t>(integer("leaves", leaves, 1, UINT32_MAX, "an int >= 1")));
             }),
             "leaves"_a)
        .def("add", &Engine::add, py::arg("question").none(false))
        .def("remove", &Engine::remove, "slot"_a)
        .def("ask", &ask, "limit"_a, "now_s"_a)
        .def("admit", &admit, "now_s"_a, "tickets"_a, "counts"_a, "tokens"_a, "keys"_a, "others"_a = py::none(),
             "probabilities"_a = py::none())
        .def("grow", &grow, "now_s"_a, "tickets"_a, "counts"_a, "values"_a, "terminal"_a, "verified"_a, "min_tokens"_a,
             "weights"_a = py::none(), "residual"_a = false, "score_costs"_a = py::none())
        .def("cancel", &cancel, "ticket"_a, "tokens"_a = py::tuple(), "others"_a = py::none())
        .def("cancel_all", &Engine::cancel_all, "slot"_a)
        .def(
            "stop", [](Engine& e, bavt::Slot slot, const std::string& reason) { e.stop(slot, stop_reason_of(reason)); },
            "slot"_a, "reason"_a)
        .def(
            "extend",
            [](Engine& e, bavt::Slot slot, py::handle more, py::handle seconds) {
                const double added = checks::number("seconds", seconds, 0.0, checks::kHuge, "a number >= 0");
                e.extend(slot, amounts_of("more", more, 0), added);
            },
            "slot"_a, "more"_a, "seconds"_a);
}
