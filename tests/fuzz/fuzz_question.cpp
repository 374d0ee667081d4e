// libFuzzer target: the bytes of a question's snapshot, and what the question does then.
#include <stdexcept>
#include <vector>

#include "engine/question.h"
#include "forge_question.h"
#include "target.h"
#include "use_tree.h"

namespace {

using bavt::kResources;
using bavt::Question;
using Outcome = bavt::Question::Outcome;
using fuzz::require;

struct Open {
    uint32_t ticket, count, found;
    bool admitted;
};

std::unique_ptr<Question> loaded(const std::string& bytes) { return Question::from_bytes(bytes.data(), bytes.size()); }

std::vector<Open> open_of(const Question& question) {
    std::vector<Open> open;
    for (const bavt::Ask& ask : question.open_asks()) open.push_back({ask.ticket, ask.count, 0, false});
    return open;
}

void check(const Question& question, const std::vector<Open>& open) {
    const bavt::Tree& tree = question.tree();
    const bavt::Account& account = question.account();
    require(question.in_flight() == open.size(), "what is out is out");
    require(tree.num_nodes() <= tree.max_nodes(), "the tree is no larger than it may be");
    require((question.stop_reason() == bavt::StopReason::kSolved) == (question.solved_node() != bavt::kNone),
            "what is solved has a node");
    for (size_t i = 0; i < kResources; ++i) {
        require(account.spent()[i] >= 0 && account.reserved()[i] >= 0 && account.left(i) >= 0, "no amount is negative");
        require(!open.empty() || account.reserved()[i] == 0, "nothing is reserved without a ticket");
    }
    const double ratio = account.remaining_ratio();
    require(ratio >= 0.0 && ratio <= 1.0, "a share lies between 0 and 1");
    bavt::NodeId above = bavt::kRoot;
    for (const bavt::NodeId node : question.best_path()) {
        require(tree.parents()[node] == above, "the best path goes down from the root");
        above = node;
    }
}

bool any_open(const Question& question) {
    const bavt::Tree& tree = question.tree();
    for (bavt::NodeId node = 0; node < tree.num_nodes(); ++node) {
        if (tree.flags(node) == 0 && tree.weights()[node] > 0.0) return true;
    }
    return false;
}

uint64_t ask(Question& question, std::vector<Open>& open) {
    const bool waited = !open.empty(), was_open = any_open(question);
    const bavt::StopReason before = question.stop_reason();
    bavt::Ask ask{};
    const Outcome outcome = question.ask(&ask);
    if (outcome == Outcome::kAsked) {
        require(before == bavt::StopReason::kNone, "nothing is asked after a stop");
        require(ask.node < question.tree().num_nodes() && question.tree().flags(ask.node) == 0,
                "what is asked is open");
        require(ask.count >= 1 && ask.count <= question.options().candidates, "not more is asked than is wanted");
        require(ask.limit >= 1 && ask.limit <= question.options().max_step_tokens, "no step is longer than it may be");
        const bavt::Account& account = question.account();
        for (size_t i = 0; i < kResources; ++i) {
            const int64_t limit = account.limits().amounts[i];
            const __int128 used = __int128{account.spent()[i]} + account.reserved()[i];
            require(limit == bavt::kUnlimited || used <= limit, "what is asked for fits");
        }
        uint64_t promised = question.tree().num_nodes() + uint64_t{ask.count};
        for (const Open& one : open) promised += one.count;
        require(promised <= question.tree().max_nodes(), "the tree has room for what is asked");
        open.push_back({ask.ticket, ask.count, 0, false});
        return bavt::mix64(ask.seed ^ ask.ticket) ^ ask.node;
    }
    require(outcome == Outcome::kStopped || waited, "only an ask that is out lets a question wait");
    require(question.stop_reason() != bavt::StopReason::kExhausted || before != bavt::StopReason::kNone || !was_open,
            "nothing is exhausted that is open");
    return static_cast<uint64_t>(outcome);
}

// One call, drawn by `seed`, on a ticket that is open where it takes one. What came of it, as a number.
uint64_t step(Question& question, std::vector<Open>& open, uint64_t seed) {
    forge::Draws draws(seed);
    const size_t place = open.empty() ? 0 : draws.below(open.size());
    const auto verb = draws.below(16);
    if (verb < 6 || (open.empty() && verb < 14)) return ask(question, open);
    if (verb == 14) {
        question.extend({{static_cast<int64_t>(draws.next() >> (1 + draws.below(63))), 30, 0, 1000}}, draws.unit());
        return question.in_flight();
    }
    if (verb == 15) {
        question.set_time(draws.unit() * 20.0);
        if (draws.below(8) == 0) question.stop(bavt::StopReason::kCancelled);
        return 0;
    }
    Open& one = open[place];
    const bavt::StepCost cost{static_cast<int64_t>(draws.below(80)), static_cast<int64_t>(draws.below(3)),
                              bavt::kNotGiven, bavt::kNotGiven, draws.below(8) == 0 ? draws.unit() : 0.0};
    if (verb == 13) {
        question.cancel(one.ticket, &cost, 1);
        open.erase(open.begin() + static_cast<std::ptrdiff_t>(place));
        return 1;
    }
    if (!one.admitted) {
        const auto steps = static_cast<uint32_t>(draws.below(std::min(one.count, 8u) + 1));
        int64_t keys[8];
        uint8_t is_new[8];
        for (int64_t& key : keys) key = static_cast<int64_t>(draws.below(600)) - 1;
        double probabilities[8];
        for (double& probability : probabilities) probability = draws.below(4) == 0 ? 1.0 : 0.3 * draws.unit();
        const std::vector<bavt::StepCost> costs(steps, cost);
        one.found = question.admit(one.ticket, costs.data(), keys, steps, is_new, probabilities);
        one.admitted = true;
        const uint32_t found = one.found;
        if (found == 0) open.erase(open.begin() + static_cast<std::ptrdiff_t>(place));
        return found;
    }
    const auto children = static_cast<uint32_t>(draws.below(one.found + 1));
    double outputs[8], values[8];
    uint8_t terminal[8], verified[8];
    int64_t least[8];
    for (uint32_t i = 0; i < children; ++i) {
        outputs[i] = 3.0 * draws.unit() - 1.0;
        verified[i] = draws.below(64) == 0;
        terminal[i] = verified[i] || draws.below(5) == 0;
        least[i] = static_cast<int64_t>(draws.below(30));
    }
    const bavt::Growth growth{children,
                              outputs,
                              draws.below(4) == 0 ? outputs : nullptr,
                              terminal,
                              verified,
                              least,
                              draws.below(2) == 0,
                              {{0, 0, 0, static_cast<int64_t>(draws.below(9))}}};
    const bavt::NodeId first = question.grow(one.ticket, growth, values);
    open.erase(open.begin() + static_cast<std::ptrdiff_t>(place));
    return first;
}

void use(Question& question, forge::Draws& draws) {
    std::vector<Open> open = open_of(question), copied = open;
    check(question, open);
    const std::string saved = question.to_bytes();
    const std::unique_ptr<Question> copy = loaded(saved);
    require(copy->to_bytes() == saved, "a snapshot of what was loaded is what was loaded");
    for (auto steps = draws.below(64); steps > 0; --steps) {
        const uint64_t seed = draws.next();
        require(step(question, open, seed) == step(*copy, copied, seed), "a copy does what the question does");
        check(question, open);
    }
    for (const Open& one : open) {
        if (one.admitted) question.cancel(one.ticket, nullptr, 0), copy->cancel(one.ticket, nullptr, 0);
    }
    const std::string after = question.to_bytes();
    require(copy->to_bytes() == after, "a copy becomes what the question becomes");
    require(loaded(after)->to_bytes() == after, "what was worked on can be saved");
    question.cancel_all();
    check(question, {});
    if (!question.extend({{1000, 1000, 1000, 1000}}, 1.0)) return;
    for (int i = 0; i < 4; ++i) ask(question, open = open_of(question));
}

}  // namespace

// Anything but a question or a SnapshotError ends the run.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    forge::Draws draws = fuzz::draws_of(data, size);
    std::unique_ptr<Question> question;
    try {
        question = Question::from_bytes(reinterpret_cast<const char*>(data), size);
    } catch (const bavt::SnapshotError&) {
    }
    fuzz::count(question != nullptr);
    if (question) use(*question, draws);
    return 0;
}

extern "C" size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t max_size, unsigned seed) {
    return fuzz::mutate(data, size, max_size, seed, forge::kSmallestQuestion, forge::repair_question);
}
