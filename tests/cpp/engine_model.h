// What an engine's question must have spent and reserved, kept beside it in 128-bit sums and by arithmetic of its own:
// written from what question.h says, not from what question.cpp does.
#pragma once

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <string>
#include <vector>

#include "engine/question.h"

namespace model {

using bavt::Amounts;
using bavt::kCost;
using bavt::kResources;
using bavt::kTokens;
using bavt::kUnlimited;
using bavt::NodeId;
using bavt::Question;
using Wide = __int128;
using Sums = std::array<Wide, kResources>;

inline void require(bool holds, const char* what) {
    if (holds) return;
    std::fprintf(stderr, "does not hold: %s\n", what);
    std::abort();
}

inline void add(Sums& sums, const Sums& more, int sign = 1) {
    for (size_t i = 0; i < kResources; ++i) sums[i] += sign * more[i];
}

inline Sums sums_of(const Amounts& amounts) {
    Sums sums;
    for (size_t i = 0; i < kResources; ++i) sums[i] = amounts[i];
    return sums;
}

inline Sums times(Sums sums, Wide factor) {
    for (Wide& sum : sums) sum *= factor;
    return sums;
}

// One amount is cut at 2^63 - 1.
inline Sums cut(Sums sums) {
    for (Wide& sum : sums) sum = std::min<Wide>(sum, kUnlimited);
    return sums;
}

inline bool any(const Sums& sums) { return sums != Sums{}; }

// Money for tokens: a price is in 1e-18, a cost in 1e-12, and what is begun of a unit is paid.
inline Wide paid(Wide tokens, Wide price) {
    const Wide exact = tokens * price;
    return exact / 1'000'000 + (exact % 1'000'000 != 0);
}

struct Claim {
    NodeId node;
    uint32_t count;
    int64_t limit;
    Sums steps, scores;
    bool admitted = false;
    uint32_t found = 0;
};

struct Model {
    bavt::SearchOptions options;
    Sums limits{};  // 0 without one
    double seconds = 0.0, elapsed_s = 0.0;
    Sums spent{}, reserved{}, overrun{};
    bool overran = false;
    std::map<uint32_t, Claim> open;
    std::vector<int64_t> min_tokens;  // of every node
    uint32_t next = 0;

    Sums step(Wide limit) const {
        const Wide prompt = options.max_step_prompt_tokens;
        return {limit, prompt, options.step_tool_calls,
                paid(limit, options.token_price) + paid(prompt, options.prompt_token_price) + options.max_step_cost};
    }
    Sums with_score(Sums one) const {
        add(one, sums_of(options.max_score));
        return one;
    }
    bool fits(const Sums& wanted) const {
        if (overran || elapsed_s >= seconds) return false;
        for (size_t i = 0; i < kResources; ++i) {
            if (limits[i] > 0 && spent[i] + reserved[i] + wanted[i] > limits[i]) return false;
        }
        return true;
    }
    bool something_is_used_up() const {
        for (size_t i = 0; i < kResources; ++i) {
            if (limits[i] > 0 && spent[i] + reserved[i] >= limits[i]) return true;
        }
        return false;
    }
    bool can_finish(NodeId node) const {
        return limits[kTokens] == 0 || spent[kTokens] + reserved[kTokens] + min_tokens[node] <= limits[kTokens];
    }
    uint64_t room(uint32_t num_nodes) const {
        uint64_t promised = 0;
        for (const auto& [number, claim] : open) promised += claim.count;
        return options.max_nodes - num_nodes - promised;
    }

    void charge(const Sums& reserved_for_it, const Sums& actual) {
        add(spent, actual);
        for (size_t i = 0; i < kResources; ++i) {
            if (limits[i] == 0 || actual[i] <= reserved_for_it[i]) continue;
            overrun[i] += actual[i] - reserved_for_it[i];
            overran = true;
        }
    }

    // ---- What a call came to

    void asked(const bavt::Ask& ask, uint32_t num_nodes) {
        require(ask.ticket == next++, "asks are numbered one by one");
        require(ask.count >= 1 && ask.count <= options.candidates, "no more steps than candidates");
        require(ask.limit >= 1 && ask.limit <= options.max_step_tokens, "no longer steps than max_step_tokens");
        require(open.empty() || ask.limit == options.max_step_tokens, "no step is cut while asks are out");
        require(can_finish(ask.node), "the cheapest finish fits");
        const uint64_t nodes_left = room(num_nodes);
        require(ask.count <= nodes_left, "the tree has room for what is asked");
        Claim claim{ask.node, ask.count, ask.limit, cut(times(cut(step(ask.limit)), ask.count)),
                    cut(times(sums_of(options.max_score), ask.count))};
        Sums all = claim.steps;
        add(all, claim.scores);
        require(fits(all), "what is asked for fits");
        const bool more_steps = ask.count < options.candidates && ask.count < nodes_left;
        require(!more_steps || !fits(times(with_score(step(ask.limit)), ask.count + 1)), "as many steps as fit");
        const bool longer = ask.limit < options.max_step_tokens;
        require(!longer || !fits(with_score(step(ask.limit + 1))), "steps as long as fit");
        add(reserved, all);
        open.emplace(ask.ticket, claim);
    }

    // The question has refused; `was_open` is what its nodes were before.
    void refused(Question::Outcome outcome, const Question& question, const std::vector<uint8_t>& was_open) const {
        const bool waits = outcome == Question::Outcome::kWait;
        const uint64_t nodes_left = room(question.tree().num_nodes());
        bool any_open = false, any_fits = false, all_finish = true;
        for (NodeId node = 0; node < was_open.size(); ++node) {
            if (!was_open[node]) continue;
            any_open = true;
            all_finish &= can_finish(node);
            any_fits |= can_finish(node) && fits(with_score(step(1)));
        }
        if (waits) {
            require(!open.empty(), "only an ask that is out can bring more");
            const bool could = nodes_left > 0 && any_open && all_finish && !something_is_used_up() &&
                               fits(with_score(step(options.max_step_tokens)));
            require(!could, "nothing waits that would have fitted");
            return;
        }
        switch (question.stop_reason()) {
            case bavt::StopReason::kBudget:
                return require(open.empty() && (something_is_used_up() || overran || !any_fits),
                               "no stop for want of budget where something fits");
            case bavt::StopReason::kDeadline:
                return require(open.empty() && elapsed_s >= seconds, "no deadline before its time");
            case bavt::StopReason::kExhausted:
                return require(open.empty() && !any_open, "nothing is exhausted that is open");
            case bavt::StopReason::kMaxNodes:
                return require(open.empty() && nodes_left == 0, "no tree is full that has room");
            default:
                require(false, "a question stops by itself for four reasons");
        }
    }

    void admitted(uint32_t number, const Sums& actual, double took_s, uint32_t found) {
        Claim& claim = open.at(number);
        add(reserved, claim.steps, -1), add(reserved, claim.scores, -1);
        charge(claim.steps, actual);
        elapsed_s += took_s;
        claim.steps = {};
        claim.scores = cut(times(sums_of(options.max_score), found));
        add(reserved, claim.scores);
        claim.admitted = true, claim.found = found;
        if (found == 0) open.erase(number);
    }

    void grown(uint32_t number, const Sums& scoring, const std::vector<int64_t>& least) {
        const Claim& claim = open.at(number);
        add(reserved, claim.scores, -1);
        charge(claim.scores, scoring);
        min_tokens.insert(min_tokens.end(), least.begin(), least.end());
        open.erase(number);
    }

    void cancelled(uint32_t number, const Sums& actual, double took_s) {
        const Claim& claim = open.at(number);
        Sums all = claim.steps;
        add(all, claim.scores);
        add(reserved, all, -1);
        charge(all, actual);
        elapsed_s += took_s;
        open.erase(number);
    }

    void extended(const Amounts& more, double more_s) {
        for (size_t i = 0; i < kResources; ++i) limits[i] += limits[i] > 0 ? more[i] : 0;
        seconds += more_s;
        overran = false;
    }

    // ---- The question itself

    void check(const Question& question) const {
        const bavt::Account& account = question.account();
        require(sums_of(account.spent()) == spent, "what was charged is spent, to the last unit");
        require(sums_of(account.reserved()) == cut(reserved), "what is reserved is what open tickets hold");
        require(sums_of(account.overrun()) == overrun, "an overrun is what was taken above what was reserved");
        require(account.overran() == overran, "an overrun holds until there is more budget");
        require(question.in_flight() == open.size(), "the open tickets");
        for (size_t i = 0; i < kResources; ++i) {
            require(limits[i] == 0 || any(overrun) || spent[i] + reserved[i] <= limits[i], "spent + reserved <= limit");
        }
        require(question.tree().num_nodes() == min_tokens.size(), "the tree has the nodes that were grown");
    }
};

// All that can be seen of a question; with `but_ask` without what an ask may change that is not handed out: how many random
// numbers were taken, and which nodes are closed.
inline std::string seen(const Question& question, bool but_ask = false) {
    const bavt::Tree& tree = question.tree();
    std::string all = but_ask ? std::string() : tree.to_bytes();
    const auto put = [&](const auto& item) { all.append(reinterpret_cast<const char*>(&item), sizeof item); };
    put(tree.num_nodes());
    for (NodeId node = 0; node < tree.num_nodes(); ++node) {
        put(tree.hot()[node].value_sum), put(tree.visits(node)), put(tree.weights()[node]), put(tree.tries()[node]);
    }
    const bavt::Account& account = question.account();
    put(account.spent()), put(account.reserved()), put(account.overrun()), put(account.elapsed_s());
    put(account.overran()), put(account.limits()), put(question.counts().invalid), put(question.counts().duplicate);
    put(question.counts().refuted), put(question.stop_reason()), put(question.solved_node()), put(question.asks());
    put(question.in_flight());
    for (const bavt::Ask& ask : question.open_asks()) put(ask.node), put(ask.count), put(ask.limit), put(ask.ticket);
    for (int64_t key = 0; key < 512; ++key) all += question.knows_key(key) ? '1' : '0';
    return all;
}

}  // namespace model
