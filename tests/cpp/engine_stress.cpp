// Random interleavings of ask, admit, grow, cancel, stop and extend over several questions, and threads that answer each
// other's tickets, with limits on everything. Run by tests/sanitize.sh under ThreadSanitizer and AddressSanitizer.
//
//     alone        one thread, against a model of every question (engine_model.h), and every refusal checked
//     modelled     several threads that take turns around the model
//     together     several threads at once, each call followed by a look at the account; sums are compared at the end
//     starved      one thread, and now and then there is no memory for the next allocation but n
//
// usage: engine_stress CALLS [SEED]; exits by abort() where something does not hold.
#include "engine_stress.h"

#include <algorithm>
#include <atomic>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>

#include "engine/engine.h"
#include "engine_model.h"
#include "engine_refusals.h"

namespace {

using namespace model;
using bavt::Engine;
using bavt::kNotGiven;
using bavt::Slot;
using bavt::StepCost;
using bavt::TicketId;

constexpr int kThreads = 4;
constexpr uint64_t kCallsOfARound = 600;

enum class Mode { kAlone, kModelled, kTogether, kStarved };

struct Out {  // an ask that is out, or admitted
    TicketId ticket;
    uint32_t count, found;
    int64_t limit;
    bool admitted;
};

// One engine with its questions, and what the threads share about them.
class Round {
   public:
    Round(Mode mode, uint64_t seed) : mode_(mode), draws_(seed), engine_(draws_.of({1u, 2u, 8u, 1000u})) {
        for (uint64_t questions = 1 + draws_.below(5); questions > 0; --questions) add_question();
    }

    void run(uint64_t calls) {
        const int threads = mode_ == Mode::kAlone || mode_ == Mode::kStarved ? 1 : kThreads;
        std::vector<std::thread> all;
        for (int i = 0; i < threads; ++i) {
            all.emplace_back([this, calls, threads, seed = draws_.next()] {
                Draws draws(seed);
                for (uint64_t call = calls / threads; call > 0; --call) step(draws);
            });
        }
        for (std::thread& thread : all) thread.join();
        settle_up();
    }

   private:
    bool modelled() const { return mode_ != Mode::kTogether; }

    void add_question() {
        const bavt::SearchOptions options = random_options(draws_);
        bavt::Limits limits;
        if (draws_.one_in(2)) limits.amounts[kTokens] = static_cast<int64_t>(1 + draws_.below(3000));
        if (draws_.one_in(4)) limits.amounts[bavt::kPromptTokens] = static_cast<int64_t>(1 + draws_.below(4000));
        if (draws_.one_in(4)) limits.amounts[bavt::kToolCalls] = static_cast<int64_t>(1 + draws_.below(150));
        if (draws_.one_in(3)) limits.amounts[kCost] = static_cast<int64_t>(1 + draws_.below(3'000'000));
        if (draws_.one_in(4)) limits.seconds = 40.0 * draws_.unit() + 0.1;
        Question::Root root;
        root.min_tokens = static_cast<int64_t>(draws_.below(5));
        auto question = std::make_shared<Question>(draws_.next(), limits,
                                                   std::make_shared<const bavt::SearchOptions>(options), root);
        const Slot slot = engine_.add(question);
        require(slot == models_.size(), "slots are numbered from 0");
        Model m;
        m.options = options;
        for (size_t i = 0; i < kResources; ++i) m.limits[i] = limits.amounts[i] == kUnlimited ? 0 : limits.amounts[i];
        m.seconds = limits.seconds;
        m.min_tokens = {root.min_tokens};
        models_.push_back(m);
        charged_.emplace_back(std::make_unique<std::array<std::atomic<int64_t>, kResources>>());
    }

    // ---- What is out

    std::optional<Out> taken(Draws& draws, bool admitted) {
        const std::lock_guard<std::mutex> lock(pool_mutex_);
        std::vector<Out>& pool = admitted ? admitted_ : asked_;
        if (pool.empty()) return std::nullopt;
        std::swap(pool[draws.below(pool.size())], pool.back());
        const Out out = pool.back();
        pool.pop_back();
        return out;
    }
    void put(const Out& out) {
        const std::lock_guard<std::mutex> lock(pool_mutex_);
        (out.admitted ? admitted_ : asked_).push_back(out);
    }
    void used(TicketId ticket) {
        const std::lock_guard<std::mutex> lock(pool_mutex_);
        used_.push_back(ticket);
    }

    // ---- One call

    void step(Draws& draws) {
        std::unique_lock<std::mutex> turn(turn_, std::defer_lock);
        if (modelled()) turn.lock();
        const uint64_t verb = draws.below(100);
        if (verb < 35) {
            if (modelled() && draws.one_in(2)) {
                ask_one(draws);
            } else {
                ask_wave(draws);
            }
        } else if (verb < 62) {
            admit(draws);
        } else if (verb < 88) {
            grow(draws);
        } else if (verb < 93) {
            cancel(draws);
        } else if (verb < 98) {
            refuse(draws);
        } else if (verb == 98) {
            extend(draws);
        } else if (draws.one_in(8)) {
            engine_.stop(random_slot(draws), draws.of({bavt::StopReason::kCancelled, bavt::StopReason::kError}));
        }
    }

    Slot random_slot(Draws& draws) { return static_cast<Slot>(draws.below(models_.size())); }

    double now(Draws& draws) {
        if (modelled()) return now_s_ = now_s_ + (draws.one_in(3) ? draws.unit() * 0.1 : 0.0);
        return 0.01 * static_cast<double>(ticks_++);
    }

    // The model's clock is the question's: time passes for a question when a call of its own reads the clock.
    void read_clock(Slot slot) {
        engine_.with_question(slot, [&](const Question& q) {
            Model& m = models_[slot];
            require(q.account().elapsed_s() >= m.elapsed_s, "time does not run backwards");
            m.elapsed_s = q.account().elapsed_s();
        });
    }

    void check(Slot slot) {
        engine_.with_question(slot, [&](const Question& q) {
            if (modelled()) return models_[slot].check(q);
            const bavt::Account& a = q.account();
            for (size_t i = 0; i < kResources; ++i) {
                const int64_t limit = a.limits().amounts[i];
                const bool within = limit == kUnlimited || Wide{a.spent()[i]} + a.reserved()[i] <= limit;
                require(within || any(sums_of(a.overrun())), "spent + reserved <= limit");
                require(a.reserved()[i] >= 0, "no amount is negative");
            }
        });
    }

    // Calls `use`, in the mode without memory perhaps with too little of it: then nothing has changed.
    template <typename Use>
    bool starved(Draws& draws, Slot slot, bool asks, Use use) {
        if (mode_ != Mode::kStarved || !draws.one_in(2)) {
            use();
            return false;
        }
        const auto look = [&] { return engine_.with_question(slot, [&](Question& q) { return seen(q, asks); }); };
        const std::string before = look();
        allocations_left = static_cast<int64_t>(draws.below(6));
        try {
            use();
            allocations_left = -1;
            return false;
        } catch (const std::bad_alloc&) {
            allocations_left = -1;
        }
        require(look() == before, "a call without memory changes nothing");
        ++starvations;
        return true;
    }

    void ask_one(Draws& draws) {
        const Slot slot = random_slot(draws);
        const double now_s = now(draws);
        engine_.with_question(slot, [&](Question& q) { q.set_time(now_s); });
        read_clock(slot);
        Model& m = models_[slot];
        bavt::Ask ask{};
        Question::Outcome outcome{};
        std::vector<uint8_t> was_open;
        bavt::StopReason before{};
        const bool failed = starved(draws, slot, true, [&] {
            engine_.with_question(slot, [&](Question& q) {
                const int64_t left = std::exchange(allocations_left, -1);
                was_open.clear();
                for (NodeId node = 0; node < q.tree().num_nodes(); ++node)
                    was_open.push_back(q.tree().flags(node) == 0);
                before = q.stop_reason();
                allocations_left = left;
                outcome = q.ask(&ask);
            });
        });
        if (failed) return;
        engine_.with_question(slot, [&](const Question& q) {
            if (outcome == Question::Outcome::kAsked) {
                require(before == bavt::StopReason::kNone, "no ask after a stop");
                m.asked(ask, q.tree().num_nodes());
            } else if (before == bavt::StopReason::kNone) {
                m.refused(outcome, q, was_open);
                ++refusals;
            } else {
                require(outcome == Question::Outcome::kStopped && q.stop_reason() == before, "a stop holds");
            }
        });
        if (outcome == Question::Outcome::kAsked) {
            ++asks;
            put({TicketId{slot} << 32 | ask.ticket, ask.count, 0, ask.limit, false});
        }
        check(slot);
    }

    void ask_wave(Draws& draws) {
        std::vector<bavt::WaveAsk> asks;
        std::vector<Slot> stopped;
        engine_.ask(draws.below(6), now(draws), &asks, &stopped);
        for (Slot slot = 0; modelled() && slot < models_.size(); ++slot) read_clock(slot);
        note(asks);
        for (const Slot slot : stopped) {
            engine_.with_question(slot, [&](const Question& q) {
                require(!modelled() || q.stop_reason() != bavt::StopReason::kNone, "what is reported has stopped");
            });
        }
    }

    void note(const std::vector<bavt::WaveAsk>& asks) {
        this->asks += asks.size();
        for (const bavt::WaveAsk& out : asks) {
            require(out.ticket == (TicketId{out.slot} << 32 | out.ask.ticket), "a ticket names its question");
            if (modelled()) {
                engine_.with_question(
                    out.slot, [&](const Question& q) { models_[out.slot].asked(out.ask, q.tree().num_nodes()); });
            }
            put({out.ticket, out.ask.count, 0, out.ask.limit, false});
        }
        for (const bavt::WaveAsk& out : asks) check(out.slot);
    }

    // A cost below, at or (rarely) above what was reserved.
    StepCost random_cost(Draws& draws, Slot slot, int64_t limit) {
        const bavt::SearchOptions& o = models_[slot].options;
        const int64_t most = std::min<int64_t>(limit, 1'000'000);
        StepCost cost{draws.one_in(3) ? most : static_cast<int64_t>(draws.below(most + 1)), 0, kNotGiven, kNotGiven,
                      0.0};
        if (o.max_step_prompt_tokens > 0) cost.prompt_tokens = static_cast<int64_t>(draws.below(41));
        if (draws.one_in(2)) cost.tool_calls = static_cast<int64_t>(draws.below(o.step_tool_calls + 1));
        if (draws.one_in(4)) cost.cost = static_cast<int64_t>(draws.below(o.max_step_cost + 1));
        if (draws.one_in(8)) cost.seconds = 0.125;
        if (draws.one_in(60)) cost.tokens += 1 + static_cast<int64_t>(draws.below(20));
        if (draws.one_in(200)) cost.tool_calls = 1 + o.step_tool_calls;
        return cost;
    }

    Sums actual_of(Slot slot, const std::vector<StepCost>& costs) {
        const bavt::SearchOptions& o = models_[slot].options;
        Sums sums{};
        for (const StepCost& c : costs) {
            const Wide priced = paid(c.tokens, o.token_price) + paid(c.prompt_tokens, o.prompt_token_price);
            add(sums, {c.tokens, c.prompt_tokens, c.tool_calls == kNotGiven ? o.step_tool_calls : c.tool_calls,
                       c.cost == kNotGiven ? priced : Wide{c.cost}});
        }
        return sums;
    }

    void count(Slot slot, const Sums& actual) {
        for (size_t i = 0; i < kResources; ++i) (*charged_[slot])[i] += static_cast<int64_t>(actual[i]);
    }

    static double seconds_of(const std::vector<StepCost>& costs) {
        double sum = 0.0;
        for (const StepCost& cost : costs) sum += cost.seconds;
        return sum;
    }

    void admit(Draws& draws) {
        auto out = taken(draws, false);
        if (!out) return;
        const Slot slot = bavt::slot_of(out->ticket);
        const auto steps = static_cast<uint32_t>(draws.one_in(20) ? 0 : 1 + draws.below(out->count));
        std::vector<StepCost> costs;
        std::vector<int64_t> keys;
        std::vector<double> probabilities;
        for (uint32_t i = 0; i < steps; ++i) {
            probabilities.push_back(draws.of({0.0, 0.1, 0.5, 1.0}));
            costs.push_back(random_cost(draws, slot, out->limit));
            keys.push_back(draws.one_in(10) ? -1 : static_cast<int64_t>(draws.below(draws.one_in(3) ? 20 : 4000)));
        }
        const uint32_t offsets[] = {0, steps};
        std::vector<uint8_t> is_new(steps);
        uint32_t found = 0;
        const double now_s = now(draws);
        engine_.with_question(slot, [&](Question& q) { q.set_time(now_s); });
        if (modelled()) read_clock(slot);
        const bool failed = starved(draws, slot, false, [&] {
            engine_.admit({&out->ticket, 1, offsets, costs.data(), keys.data(), probabilities.data()}, now_s,
                          is_new.data(), &found);
        });
        if (failed) return put(*out);
        ++admits;
        require(found == static_cast<uint32_t>(std::count(is_new.begin(), is_new.end(), 1)), "what is new is counted");
        const Sums actual = actual_of(slot, costs);
        count(slot, actual);
        if (modelled()) models_[slot].admitted(bavt::number_of(out->ticket), actual, seconds_of(costs), found);
        check(slot);
        if (found == 0) return used(out->ticket);
        out->admitted = true, out->found = found;
        put(*out);
    }

    void grow(Draws& draws) {
        const auto out = taken(draws, true);
        if (!out) return;
        const Slot slot = bavt::slot_of(out->ticket);
        const auto children = static_cast<uint32_t>(draws.one_in(8) ? draws.below(out->found + 1) : out->found);
        std::vector<double> outputs(children), values(children);
        std::vector<uint8_t> terminal(children), verified(children);
        std::vector<int64_t> least(children);
        for (uint32_t i = 0; i < children; ++i) {
            outputs[i] = 2.0 * draws.unit() - 0.5;
            verified[i] = draws.one_in(200);
            terminal[i] = verified[i] || draws.one_in(8);
            least[i] = static_cast<int64_t>(draws.one_in(10) ? draws.below(400) : draws.below(5));
        }
        const Amounts& most = models_[slot].options.max_score;
        Amounts scoring;
        for (size_t i = 0; i < kResources; ++i) scoring[i] = static_cast<int64_t>(draws.below(most[i] * children + 1));
        if (draws.one_in(150)) scoring[kCost] += most[kCost] * out->found + 1;
        const uint32_t offsets[] = {0, children};
        NodeId first = 0;
        const double now_s = now(draws);
        engine_.with_question(slot, [&](Question& q) { q.set_time(now_s); });
        if (modelled()) read_clock(slot);
        const bavt::WaveGrowth growth{
            &out->ticket, 1,        offsets,        outputs.data(), nullptr, terminal.data(), verified.data(),
            least.data(), &scoring, draws.one_in(2)};
        const bool asks_too = mode_ != Mode::kStarved && draws.one_in(3);  // it may have grown where memory runs out
        std::vector<bavt::WaveAsk> asked;
        const bool failed = starved(draws, slot, false, [&] {
            if (asks_too) return engine_.grow_and_ask(growth, now_s, &first, values.data(), draws.below(3), &asked);
            engine_.grow(growth, now_s, &first, values.data());
        });
        if (failed) return put(*out);
        ++grows;
        require((first == bavt::kNone) == (children == 0), "children have ids");
        for (const double value : values) require(value >= bavt::kMinValue && value <= 1.0, "V is in (0, 1]");
        count(slot, sums_of(scoring));
        if (modelled()) models_[slot].grown(bavt::number_of(out->ticket), sums_of(scoring), least);
        for (const bavt::WaveAsk& ask : asked) {
            if (modelled()) read_clock(ask.slot);
        }
        note(asked);
        check(slot);
        used(out->ticket);
    }

    void cancel(Draws& draws) {
        const auto out = taken(draws, draws.one_in(2));
        if (!out) return;
        const Slot slot = bavt::slot_of(out->ticket);
        std::vector<StepCost> costs;
        if (draws.one_in(3)) costs.push_back(random_cost(draws, slot, out->limit));
        engine_.cancel(out->ticket, costs.data(), static_cast<uint32_t>(costs.size()));
        const Sums actual = actual_of(slot, costs);
        count(slot, actual);
        if (modelled()) models_[slot].cancelled(bavt::number_of(out->ticket), actual, seconds_of(costs));
        ++cancels;
        check(slot);
        used(out->ticket);
    }

    void extend(Draws& draws) {
        const Slot slot = random_slot(draws);
        Amounts more;
        for (size_t i = 0; i < kResources; ++i) more[i] = static_cast<int64_t>(draws.below(i == kCost ? 500'000 : 300));
        const double more_s = draws.unit();
        engine_.extend(slot, more, more_s);
        if (modelled()) models_[slot].extended(more, more_s);
        check(slot);
    }

    // ---- What must be refused, and change nothing

    void refuse(Draws& draws) {
        const auto out = taken(draws, draws.one_in(2));
        const Slot slot = out ? bavt::slot_of(out->ticket) : random_slot(draws);
        const auto look = [&] { return engine_.with_question(slot, [](Question& q) { return seen(q); }); };
        const std::string before = modelled() ? look() : std::string();
        TicketId never = TicketId{slot} << 32 | 0xFFFFFFF0u;
        if (draws.one_in(4)) never = TicketId{static_cast<Slot>(models_.size() + draws.below(9))} << 32;
        refusals_.expect_ticket_error([&] { (void)refusals_.admit_of(never, 0); });
        refusals_.expect_ticket_error([&] { refusals_.grow_of(never, 0); });
        refusals_.expect_ticket_error([&] { engine_.cancel(never, nullptr, 0); });
        if (const auto old = some_used(draws)) {
            refusals_.expect_ticket_error([&] { (void)refusals_.admit_of(*old, 0); });
            refusals_.expect_ticket_error([&] { refusals_.grow_of(*old, 0); });
            refusals_.expect_ticket_error([&] { engine_.cancel(*old, nullptr, 0); });
        }
        if (out && out->admitted) {
            refusals_.expect_ticket_error([&] { (void)refusals_.admit_of(out->ticket, 0); });
            refusals_.expect_refusal([&] { refusals_.grow_of(out->ticket, out->found + 1); });
            refusals_.expect_ticket_error([&] { refusals_.grow_of(out->ticket, 0, true); });
        } else if (out) {
            refusals_.expect_ticket_error([&] { refusals_.grow_of(out->ticket, 0); });
            refusals_.expect_refusal([&] { (void)refusals_.admit_of(out->ticket, out->count + 1); });
            refusals_.expect_ticket_error([&] { (void)refusals_.admit_of(out->ticket, 0, true); });
        }
        if (modelled()) require(look() == before, "what is refused changes nothing");
        if (out) put(*out);
        check(slot);
    }

    std::optional<TicketId> some_used(Draws& draws) {
        const std::lock_guard<std::mutex> lock(pool_mutex_);
        if (used_.empty()) return std::nullopt;
        return used_[draws.below(used_.size())];
    }
    // ---- At the end

    void settle_up() {
        for (Slot slot = 0; slot < models_.size(); ++slot) {
            check(slot);
            engine_.cancel_all(slot);
            engine_.with_question(slot, [&](Question& q) {
                const bavt::Account& a = q.account();
                require(a.reserved() == Amounts{}, "nothing is reserved without a ticket");
                for (size_t i = 0; i < kResources; ++i) {
                    require(a.spent()[i] == (*charged_[slot])[i], "what the threads charged is what was spent");
                }
                const std::string bytes = q.to_bytes();
                const auto copy = Question::from_bytes(bytes.data(), bytes.size());
                require(copy->to_bytes() == bytes, "what was saved is loaded as it was");
                for (NodeId node = 0; node < q.tree().num_nodes(); ++node) {
                    require(q.tree().visits(node) >= (node > 0), "a child has been visited");
                }
            });
            engine_.remove(slot);
            refusals_.expect_ticket_error([&] { engine_.cancel(TicketId{slot} << 32, nullptr, 0); });
        }
    }

    Mode mode_;
    Draws draws_;
    Engine engine_;
    Refusals refusals_{engine_};
    std::mutex turn_, pool_mutex_;
    std::vector<Model> models_;
    std::vector<std::unique_ptr<std::array<std::atomic<int64_t>, kResources>>> charged_;
    std::vector<Out> asked_, admitted_;
    std::vector<TicketId> used_;
    double now_s_ = 0.0;
    std::atomic<uint64_t> ticks_{0};

   public:
    std::atomic<uint64_t> asks{0}, admits{0}, grows{0}, cancels{0}, refusals{0}, starvations{0};
};

}  // namespace

int main(int argc, char** argv) {
    if (argc < 2) return std::fprintf(stderr, "usage: %s CALLS [SEED]\n", argv[0]), 2;
    const uint64_t calls = std::strtoull(argv[1], nullptr, 10);
    uint64_t seed = argc > 2 ? std::strtoull(argv[2], nullptr, 10) : 0;
    constexpr Mode kModes[] = {Mode::kAlone, Mode::kModelled, Mode::kTogether, Mode::kStarved};
    uint64_t done[6] = {};
    for (uint64_t round = 0; done[0] + done[1] + done[2] + done[3] < calls; ++round) {
        Round one(kModes[round % 4], bavt::mix64(++seed));
        one.run(kCallsOfARound);
        const uint64_t counts[] = {one.asks, one.admits, one.grows, one.cancels, one.refusals, one.starvations};
        for (size_t i = 0; i < 6; ++i) done[i] += counts[i];
    }
    const char* const kNames[] = {
        "asks", "admits", "grows", "cancels", "refusals of an ask checked", "calls without memory"};
    for (size_t i = 0; i < 6; ++i)
        std::printf("%llu %s%s", static_cast<unsigned long long>(done[i]), kNames[i], i < 5 ? ", " : "\n");
    return 0;
}
