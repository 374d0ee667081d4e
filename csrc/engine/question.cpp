#include "engine/question.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>

namespace bavt {
namespace {

constexpr uint16_t kMaxFruitless = 0xFFFF;
constexpr uint32_t kLastTicket = 0xFFFFFFFF;  // asks of one question: it stops as if its tree were full
constexpr double kLeastUntried = 1e-3;        // what a sum of probabilities leaves at the least: it may be above 1
constexpr int64_t kPriceUnits = 1'000'000;    // a price is in 1e-18, a cost in 1e-12

// 63 bits that depend on the question, the node and how often it was asked before: no counter over the whole search.
uint64_t ask_seed(uint64_t seed, NodeId node, uint32_t asked) {
    const uint64_t of_node = mix64(seed + (uint64_t{node} + 1) * 0x9E3779B97F4A7C15ull);
    return mix64(of_node + (uint64_t{asked} + 1) * 0xD1B54A32D192ED03ull) >> 1;
}

// How often `each` goes into `left`.
int64_t times(int64_t left, int64_t each) { return each > 0 && left != kUnlimited ? left / each : kUnlimited; }

}  // namespace

Question::Question(uint64_t seed, const Limits& limits, Options options, const Root& root)
    : seed_(seed), options_(std::move(options)), account_(limits) {
    TreeOptions tree;
    tree.seed = seed;
    tree.max_nodes = options_->max_nodes;
    tree.decay = options_->decay;
    tree.powers = options_->powers;
    tree.compact = true;
    tree.root_value = root.verified ? 1.0 : std::clamp(root.value, kMinValue, 1.0);
    tree_ = std::make_unique<Tree>(tree);
    if (options_->discount < 1.0 || options_->tried_exponent > 0.0)
        tree_->set_root_weight(weight_of(tree.root_value, root.min_tokens));
    info_.push_back({root.min_tokens});
    if (root.terminal) tree_->mark_terminal(kRoot);
    if (root.verified) solved_node_ = kRoot, stop_reason_ = StopReason::kSolved;
}

double Question::weight_of(double value, int64_t min_tokens) const {
    return std::max(kMinValue, value * std::pow(options_->discount, static_cast<double>(min_tokens)));
}

void Question::set_time(double now_s) {
    if (!started_) start_s_ = now_s - account_.elapsed_s(), extra_s_ = 0.0, started_ = true;
    account_.set_elapsed(now_s - start_s_ + extra_s_);
}

// ---- Choosing ------------------------------------------------------------------------------------------------------

NodeId Question::select() {
    const double ratio = account_.remaining_ratio();
    if (ratio <= 0.0) return kNone;
    const SelectArgs args{ratio, 1.0, options_->exploration};
    switch (options_->policy) {
        case Policy::kPower:
        case Policy::kBestFirst:
            return tree_->select(options_->policy, args);
        case Policy::kUcb:
            return descend(Ucb(args.exploration, args.total, args.remaining));
        case Policy::kUct:
            return descend(Uct(args.exploration));
        case Policy::kPuct:
            return descend(Puct(args.exploration));
    }
    return kNone;
}

template <typename Rule>
NodeId Question::descend(Rule rule) const {
    if (!alive(kRoot)) return kNone;
    for (NodeId node = kRoot;;) {
        const NodeInfo& info = info_[node];
        if (tree_->flags(node) == 0) {
            const double room = options_->widening_scale * std::pow(tree_->visits(node), options_->widening_exponent);
            if (info.alive_children == 0 || static_cast<double>(info.children + info.in_flight) < room) return node;
        }
        node = best_child(node, rule.below(tree_->visits(node)));
    }
}

// The child of the highest score below which something is open, the first on ties; a NaN never wins over a number.
template <typename Score>
NodeId Question::best_child(NodeId node, Score score) const {
    double best = -std::numeric_limits<double>::infinity();
    NodeId chosen = kNone, first = kNone;
    tree_->for_each_child(node, [&](NodeId child) {
        if (!alive(child)) return;
        if (first == kNone) first = child;
        const Hot& hot = tree_->hot()[child];
        const ChildStats stats{hot.value_sum, hot.visits, false};
        double s;
        if constexpr (Score::kNeedsPrior) {
            s = score(stats, tree_->values()[child], 1.0 / info_[node].children);
        } else {
            s = score(stats);
        }
        if (s > best) best = s, chosen = child;
    });
    return chosen != kNone ? chosen : first;
}

// ---- Paying --------------------------------------------------------------------------------------------------------

int64_t Question::price(int64_t tokens, int64_t price) const {
    const __int128 units = (static_cast<__int128>(tokens) * price + kPriceUnits - 1) / kPriceUnits;
    return units > kUnlimited ? kUnlimited : static_cast<int64_t>(units);
}

// The most that one step of so many tokens may take.
Amounts Question::step_claim(int64_t limit) const {
    const int64_t prompt = options_->max_step_prompt_tokens;
    const int64_t tokens_cost =
        saturated_sum(price(limit, options_->token_price), price(prompt, options_->prompt_token_price));
    return {{limit, prompt, options_->step_tool_calls, saturated_sum(tokens_cost, options_->max_step_cost)}};
}

Amounts Question::charge(const StepCost& step) const {
    const int64_t tool_calls = step.tool_calls == kNotGiven ? options_->step_tool_calls : step.tool_calls;
    int64_t cost = step.cost;
    if (cost == kNotGiven) {
        cost = saturated_sum(price(step.tokens, options_->token_price),
                             price(step.prompt_tokens, options_->prompt_token_price));
    }
    return {{step.tokens, step.prompt_tokens, tool_calls, cost}};
}

// What steps cost together; the time that they took is added to the clock's.
Amounts Question::charge_all(const StepCost* costs, uint32_t steps) {
    Amounts spent;
    double seconds = 0.0;
    for (uint32_t i = 0; i < steps; ++i) {
        spent += charge(costs[i]);
        seconds += costs[i].seconds;
    }
    extra_s_ += seconds;
    account_.set_elapsed(account_.elapsed_s() + seconds);
    return spent;
}

// Steps and tokens a step to reserve for an ask of `node`: as many as wanted, or as few as what is left can hold. False
// where not one step fits, or the node's cheapest finish does not.
bool Question::fit(NodeId node, uint32_t* count, int64_t* limit) const {
    if (account_.left(kTokens) < info_[node].min_tokens) return false;
    const Amounts least = step_claim(0) + options_->max_score;  // what one step takes beside its tokens
    if (!account_.fits(least)) return false;
    int64_t tokens = options_->max_step_tokens;
    if (account_.left(kTokens) != kUnlimited) tokens = std::min(tokens, account_.left(kTokens) - least[kTokens]);
    if (account_.left(kCost) != kUnlimited && options_->token_price > 0) {
        const __int128 left = account_.left(kCost) - least[kCost];
        const __int128 affordable = left * kPriceUnits / options_->token_price;
        if (affordable < tokens) tokens = static_cast<int64_t>(affordable);
    }
    if (tokens < 1) return false;
    const Amounts each = step_claim(tokens) + options_->max_score;
    int64_t steps = options_->candidates;
    for (size_t i = 0; i < kResources; ++i) steps = std::min(steps, times(account_.left(i), each[i]));
    *count = static_cast<uint32_t>(steps);
    *limit = tokens;
    return steps >= 1;
}

// ---- ask -----------------------------------------------------------------------------------------------------------

Question::Outcome Question::ask(Ask* ask) {
    while (stop_reason_ == StopReason::kNone) {
        if (waiting_) return Outcome::kWait;
        const bool waits = !tickets_.empty();
        uint64_t room = options_->max_nodes - tree_->num_nodes() - promised_nodes_;
        if (next_ticket_ == kLastTicket) room = 0;
        const NodeId node = room > 0 ? select() : kNone;
        if (node == kNone) {
            if (waits) return wait();
            stop_reason_ = room == 0 ? StopReason::kMaxNodes : StopReason::kNone;
            if (room > 0) stop_for_lack();
            break;
        }
        uint32_t count = 0;
        int64_t limit = 0;
        const bool fits = fit(node, &count, &limit);
        // What the asks in flight have reserved and do not spend comes back, and may do for this node. And a step is not
        // cut shorter than it would be alone: its tokens would be lost.
        if (waits && (!fits || limit < options_->max_step_tokens)) return wait();
        if (fits) {
            hand_out(node, static_cast<uint32_t>(std::min<uint64_t>(count, room)), limit, ask);
            return Outcome::kAsked;
        }
        info_[node].unaffordable = unaffordable_ = true;  // what is left only shrinks
        close(node);
    }
    return Outcome::kStopped;
}

Question::Outcome Question::wait() {
    waiting_ = true;
    return Outcome::kWait;
}

void Question::hand_out(NodeId node, uint32_t count, int64_t limit, Ask* ask) {
    Ticket& ticket = tickets_.add(next_ticket_);  // may throw: nothing has changed
    ticket.node = node;
    ticket.count = count;
    ticket.limit = limit;
    ticket.seed = ask_seed(seed_, node, info_[node].asked);
    ticket.claim = step_claim(limit).times(count);
    ticket.score_claim = options_->max_score.times(count);
    ticket.tried = info_[node].told;
    ticket.admitted = false;
    ticket.keys.clear();
    *ask = {node, count, limit, ticket.seed, next_ticket_, ticket.tried};
    ++next_ticket_;
    account_.reserve(ticket.claim);
    account_.reserve(ticket.score_claim);
    promised_nodes_ += count;
    ++info_[node].asked;
    ++info_[node].in_flight;
    ticket.counted_try = tree_->penalize(node);
    tree_->add_visits(node, 1);
}

void Question::stop_for_lack() {
    if (account_.out_of_time()) {
        stop_reason_ = StopReason::kDeadline;
    } else if (account_.remaining_ratio() <= 0.0 || unaffordable_) {
        stop_reason_ = StopReason::kBudget;
    } else {
        stop_reason_ = StopReason::kExhausted;
    }
}

// ---- Tickets -------------------------------------------------------------------------------------------------------

const Question::Ticket& Question::open(uint32_t ticket, const char* verb, bool admitted) const {
    const Ticket* found = tickets_.find(ticket);
    if (found == nullptr) {
        throw TicketError(std::string(verb) + ": expected the ticket of an open ask, got " + std::to_string(ticket) +
                          ", which was answered or cancelled before, or belongs to another search");
    }
    if (found->admitted != admitted) {
        throw TicketError(std::string(verb) + ": ticket " + std::to_string(ticket) +
                          (admitted ? " has no admitted states yet; admit its steps first"
                                    : " is admitted already; grow it with the values of its new states"));
    }
    return *found;
}

Question::Ticket& Question::open(uint32_t ticket, const char* verb, bool admitted) {
    return const_cast<Ticket&>(std::as_const(*this).open(ticket, verb, admitted));
}

void Question::require_open(uint32_t ticket) const {
    if (tickets_.find(ticket) == nullptr) (void)open(ticket, "cancel", false);
}

void Question::require_admissible(uint32_t ticket, uint32_t steps) const {
    const Ticket& claim = open(ticket, "admit", false);
    if (steps <= claim.count) return;
    throw std::invalid_argument("steps: expected at most " + std::to_string(claim.count) + " for the ask, got " +
                                std::to_string(steps) + "; respect counts");
}

void Question::require_growable(uint32_t ticket, uint32_t children) const {
    const Ticket& claim = open(ticket, "grow", true);
    if (children <= claim.keys.size()) return;
    throw std::invalid_argument("values: expected at most " + std::to_string(claim.keys.size()) +
                                ", one for each new state, got " + std::to_string(children));
}

bool Question::knows_key(int64_t key) const {
    const auto word = static_cast<size_t>(key / 64);
    return word < seen_.size() && (seen_[word] >> (key % 64) & 1) != 0;
}

void Question::see(int64_t key, bool seen) {
    const auto word = static_cast<size_t>(key / 64);
    if (word >= seen_.size()) seen_.resize(word + 1);
    const uint64_t bit = uint64_t{1} << (key % 64);
    seen_[word] = seen ? seen_[word] | bit : seen_[word] & ~bit;
}

// Throws nothing: the root has a weight of its own, so that all have.
void Question::count_tried(NodeId node, const double* probabilities, uint32_t steps) {
    NodeInfo& info = info_[node];
    const double before = std::max(1.0 - info.tried, kLeastUntried);
    for (uint32_t i = 0; i < steps; ++i) info.tried = std::min(1.0, info.tried + probabilities[i]);
    const double left = std::max(1.0 - info.tried, kLeastUntried) / before;
    tree_->set_weight(node, std::max(kMinValue, tree_->weights()[node] * std::pow(left, options_->tried_exponent)));
}

uint32_t Question::admit(uint32_t ticket, const StepCost* costs, const int64_t* keys, uint32_t steps, uint8_t* is_new,
                         const double* probabilities) {
    require_admissible(ticket, steps);
    Ticket& claim = open(ticket, "admit", false);
    claim.keys.reserve(steps);
    const int64_t largest = steps > 0 ? *std::max_element(keys, keys + steps) : -1;
    if (largest >= 0) see(largest, knows_key(largest));  // makes room: from here on nothing throws
    for (uint32_t i = 0; i < steps; ++i) {
        is_new[i] = keys[i] >= 0 && !knows_key(keys[i]);
        if (keys[i] < 0) {
            ++counts_.invalid;
        } else if (is_new[i]) {
            see(keys[i], true);
            claim.keys.push_back(keys[i]);
        } else {
            ++counts_.duplicate;
        }
    }
    account_.settle(claim.claim, charge_all(costs, steps));
    claim.claim = Amounts{};
    const auto found = static_cast<uint32_t>(claim.keys.size());
    const Amounts still = options_->max_score.times(found);
    account_.release(claim.score_claim);
    account_.reserve(still);
    claim.score_claim = still;
    claim.admitted = true;
    info_[claim.node].told += steps;
    if (probabilities != nullptr && options_->tried_exponent > 0.0) count_tried(claim.node, probabilities, steps);
    waiting_ = false;
    if (found == 0) end(ticket, claim, steps > 0, steps == 0);
    return found;
}

NodeId Question::grow(uint32_t ticket, const Growth& growth, double* values) {
    require_growable(ticket, growth.count);
    const Ticket& claim = open(ticket, "grow", true);
    const NodeId node = claim.node;
    const double parent_value = tree_->values()[node];
    const bool weighs = growth.weights != nullptr || options_->discount < 1.0 || tree_->has_weights();
    std::vector<double> weights(weighs ? growth.count : 0);
    for (uint32_t i = 0; i < growth.count; ++i) {
        const double value = growth.outputs[i] + (growth.residual ? parent_value : 0.0);
        values[i] = growth.verified[i] ? 1.0 : std::clamp(value, kMinValue, 1.0);
        if (!weighs) continue;
        weights[i] = growth.weights != nullptr ? std::max(kMinValue, growth.weights[i])
                                               : weight_of(values[i], growth.min_tokens[i]);
    }
    NodeId first = kNone;
    const size_t grown = info_.size() + growth.count;
    if (info_.capacity() < grown) info_.reserve(std::max(grown, 2 * info_.size()));
    if (growth.count > 0) {
        first = tree_->expand(node, values, growth.terminal, nullptr, growth.count, weighs ? weights.data() : nullptr);
    }
    // From here on nothing throws.
    waiting_ = false;
    counts_.refuted += claim.keys.size() - growth.count;
    account_.settle(claim.score_claim, growth.score_cost);
    const bool was_alive = growth.count > 0 && alive(node);
    uint32_t alive_children = 0;
    for (uint32_t i = 0; i < growth.count; ++i) {
        info_.push_back({growth.min_tokens[i]});
        alive_children += growth.terminal[i] == 0;
    }
    if (growth.count > 0) {
        info_[node].children += growth.count;
        info_[node].alive_children += alive_children;
        tree_->add_visits(node, -1);
        for (uint32_t i = 0; i < growth.count; ++i) tree_->backup(first + i, values[i], Backup::kMean);
        if (!was_alive && alive(node)) {  // closed while the ask was out: its new children open it again to descents
            for (NodeId at = node; at != kRoot && info_[tree_->parents()[at]].alive_children++ == 0;) {
                at = tree_->parents()[at];
                if (tree_->flags(at) == 0) break;
            }
        }
        for (uint32_t i = 0; i < growth.count && solved_node_ == kNone; ++i) {
            if (growth.verified[i]) solved_node_ = first + i, stop_reason_ = StopReason::kSolved;
        }
    }
    end(ticket, claim, growth.count == 0, false);
    return first;
}

void Question::cancel(uint32_t ticket, const StepCost* costs, uint32_t steps) {
    require_open(ticket);
    const Ticket& claim = *tickets_.find(ticket);
    waiting_ = false;
    account_.release(claim.claim);
    account_.release(claim.score_claim);
    account_.charge(claim.claim + claim.score_claim, charge_all(costs, steps));
    for (const int64_t key : claim.keys) see(key, false);
    const NodeId node = claim.node;
    --info_[node].in_flight;
    promised_nodes_ -= claim.count;
    if (claim.counted_try) tree_->unpenalize(node);
    tree_->add_visits(node, -1);
    tickets_.erase(ticket);
}

void Question::cancel_all() {
    while (!tickets_.empty()) cancel(tickets_.any(), nullptr, 0);
}

// The ticket is done. Undoing the try is for an answer without a step: the node is closed, and was not tried.
void Question::end(uint32_t ticket, const Ticket& claim, bool fruitless, bool undo_try) {
    const NodeId node = claim.node;
    NodeInfo& info = info_[node];
    --info.in_flight;
    promised_nodes_ -= claim.count;
    if (undo_try) {
        if (claim.counted_try) tree_->unpenalize(node);
        tree_->add_visits(node, -1);
    } else if (!fruitless) {
        info.fruitless = 0;
    } else if (info.fruitless < kMaxFruitless) {
        ++info.fruitless;
    }
    tickets_.erase(ticket);
    if (undo_try || info.fruitless >= options_->patience) close(node);
}

// ---- What is open --------------------------------------------------------------------------------------------------

void Question::close(NodeId node) {
    if ((tree_->flags(node) & kClosed) != 0) return;
    const bool was_alive = alive(node);
    tree_->set_flag(node, kClosed, true);
    if (was_alive && !alive(node)) set_dead(node);
}

// Nothing is open at `node` and below; goes up as far as that changes something.
void Question::set_dead(NodeId node) {
    while (node != kRoot) {
        node = tree_->parents()[node];
        if (--info_[node].alive_children > 0 || tree_->flags(node) == 0) return;
    }
}

void Question::count_alive() {
    for (NodeInfo& info : info_) info.children = info.alive_children = 0;
    for (NodeId node = tree_->num_nodes() - 1; node > 0; --node) {  // children come after their parents
        NodeInfo& parent = info_[tree_->parents()[node]];
        ++parent.children;
        parent.alive_children += alive(node);
    }
}

void Question::stop(StopReason reason) {
    if (stop_reason_ == StopReason::kNone) stop_reason_ = reason;
}

bool Question::extend(const Amounts& more, double seconds) {
    account_.extend(more, seconds);
    waiting_ = false;
    if (stop_reason_ == StopReason::kSolved || stop_reason_ == StopReason::kMaxNodes) return false;
    for (NodeId node = 0; node < tree_->num_nodes(); ++node) {
        if (!info_[node].unaffordable) continue;
        info_[node].unaffordable = false;
        tree_->set_flag(node, kClosed, false);
    }
    unaffordable_ = false;
    count_alive();
    if (stop_reason_ != StopReason::kExhausted) stop_reason_ = StopReason::kNone;
    return stop_reason_ == StopReason::kNone;
}

// ---- Reading -------------------------------------------------------------------------------------------------------

std::vector<NodeId> Question::best_path() const {
    if (solved_node_ == kNone) return tree_->best_path();
    std::vector<NodeId> path;
    for (NodeId node = solved_node_; node != kRoot; node = tree_->parents()[node]) path.push_back(node);
    std::reverse(path.begin(), path.end());
    return path;
}

std::vector<Ask> Question::open_asks() const {
    std::vector<Ask> asks;
    tickets_.for_each([&](uint32_t number, const Ticket& ticket) {
        if (ticket.admitted) return;
        asks.push_back({ticket.node, ticket.count, ticket.limit, ticket.seed, number, ticket.tried});
    });
    std::sort(asks.begin(), asks.end(), [](const Ask& a, const Ask& b) { return a.ticket < b.ticket; });
    return asks;
}

std::vector<Question::Claim> Question::claims() const {
    std::vector<Claim> claims;
    tickets_.for_each(
        [&](uint32_t number, const Ticket& ticket) { claims.push_back({number, ticket.claim + ticket.score_claim}); });
    std::sort(claims.begin(), claims.end(), [](const Claim& a, const Claim& b) { return a.ticket < b.ticket; });
    return claims;
}

void Question::prefetch_parts() const {
    tree_->prefetch();
    __builtin_prefetch(seen_.data());
}

// Of the node that is out, or else of the newest one.
void Question::prefetch_nodes() const {
    const Ticket* ticket = tickets_.own();
    const NodeId node = ticket != nullptr ? ticket->node : tree_->num_nodes() - 1;
    __builtin_prefetch(&info_[node], 1);
    __builtin_prefetch(reinterpret_cast<const char*>(&info_[node] + 1) - 1, 1);
    __builtin_prefetch(info_.data() + info_.size(), 1);
    tree_->prefetch_expand(node);
}

size_t Question::memory_bytes() const {
    return sizeof *this + info_.capacity() * sizeof(NodeInfo) + seen_.capacity() * sizeof(uint64_t) +
           tickets_.memory_bytes();
}

}  // namespace bavt
