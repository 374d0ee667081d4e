// Snapshots of a question. All numbers are little-endian, as they lie in memory:
//
//     Header | NodeRecord[num_nodes] | seen keys u64[seen_words] | TicketRecord[num_tickets] | a snapshot of the tree |
//     checksum u64 of all before it (checksum.h)
//
// Nothing read is trusted. Sizes are compared before memory is taken and every field is checked; what follows from other
// fields (what is reserved, how many asks are in flight on a node, what is open below it) is not stored but made anew.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "engine/question.h"
#include "memory/checksum.h"
#include "tree/snapshot.h"

namespace bavt {
namespace {

constexpr char kMagic[8] = {'B', 'A', 'V', 'T', 'Q', 'S', 'T', 'N'};
constexpr uint32_t kVersion = 2;

struct Header {
    char magic[8];
    uint32_t version, policy;
    double exploration, decay, discount, tried_exponent, widening_scale, widening_exponent;
    uint32_t candidates, patience, max_nodes, stop_reason;
    int64_t max_step_tokens, max_step_prompt_tokens, step_tool_calls, max_step_cost, token_price, prompt_token_price;
    int64_t max_score[kResources], limits[kResources], spent[kResources], overrun[kResources];
    double limit_s, elapsed_s;
    uint64_t seed, invalid, duplicate, refuted, tree_bytes;
    uint32_t overran, unaffordable, solved_node, next_ticket, num_tickets, seen_words, num_nodes, waiting;
};
static_assert(sizeof(Header) == 344);

struct NodeRecord {
    int64_t min_tokens;
    double tried;
    uint32_t asked, told;
    uint16_t fruitless, unaffordable;
    uint32_t reserved;
};
static_assert(sizeof(NodeRecord) == 32);

struct TicketRecord {
    uint32_t number, node, count, counted_try, tried, reserved;
    int64_t limit;
    uint64_t seed;
    int64_t claim[kResources], score_claim[kResources];
};
static_assert(sizeof(TicketRecord) == 104);

Amounts amounts_of(const int64_t (&from)[kResources]) {
    Amounts amounts;
    std::copy_n(from, kResources, amounts.of.begin());
    return amounts;
}

void put_amounts(const Amounts& amounts, int64_t (&to)[kResources]) { std::copy_n(amounts.of.begin(), kResources, to); }

template <typename T>
void append(std::string& bytes, const T& record) {
    bytes.append(reinterpret_cast<const char*>(&record), sizeof record);
}

template <typename T>
T take(const char*& at) {
    T record;
    std::memcpy(&record, at, sizeof record);
    at += sizeof record;
    return record;
}

uint64_t checksum_of(const char* data, size_t size) {
    Checksum sum;
    sum.add(data, size);
    return sum.value();
}

bool all_at_least(const int64_t (&amounts)[kResources], int64_t least) {
    return std::all_of(amounts, amounts + kResources, [least](int64_t amount) { return amount >= least; });
}

bool in_unit_interval(double share) { return share > 0.0 && share <= 1.0; }

void check_options(const Header& h) {
    require_snapshot(h.policy <= static_cast<uint32_t>(Policy::kPuct), "the policy is unknown");
    require_snapshot(std::isfinite(h.exploration), "exploration is not finite");
    require_snapshot(in_unit_interval(h.decay) && in_unit_interval(h.discount), "decay or discount is out of range");
    require_snapshot(h.tried_exponent >= 0.0 && std::isfinite(h.tried_exponent), "tried_exponent is out of range");
    require_snapshot(std::isfinite(h.widening_scale) && h.widening_scale > 0.0 && h.widening_exponent >= 0.0 &&
                         h.widening_exponent <= 1.0,
                     "a widening setting is out of range");
    require_snapshot(
        h.candidates >= 1 && h.candidates <= kMaxCandidates && h.patience >= 1 && h.patience <= kMaxPatience,
        "candidates or patience is out of range");
    require_snapshot(h.max_nodes >= 1 && h.max_nodes <= kMaxNodes, "max_nodes is out of range");
    require_snapshot(h.max_step_tokens >= 1 && h.max_step_prompt_tokens >= 0 && h.step_tool_calls >= 0 &&
                         h.max_step_cost >= 0 && h.token_price >= 0 && h.prompt_token_price >= 0 &&
                         all_at_least(h.max_score, 0),
                     "a limit of a step is out of range");
}

void check_state(const Header& h) {
    require_snapshot(all_at_least(h.limits, 1) && h.limit_s > 0.0, "a budget is out of range");
    require_snapshot(all_at_least(h.spent, 0) && all_at_least(h.overrun, 0) && h.overran <= 1 && h.unaffordable <= 1,
                     "what was spent is out of range");
    require_snapshot(h.elapsed_s >= 0.0 && std::isfinite(h.elapsed_s), "the time is out of range");
    require_snapshot(h.stop_reason < kStopReasons, "the stop reason is unknown");
    const bool solved = h.stop_reason == static_cast<uint32_t>(StopReason::kSolved);
    require_snapshot(solved == (h.solved_node != kNone), "the solved node and the stop reason differ");
    require_snapshot(h.waiting <= (h.num_tickets > 0), "it waits for an answer that is not out");
}

// The whole snapshot, from its header alone; the tree's part is checked by the tree.
uint64_t size_of(const Header& h) {
    const uint64_t records = uint64_t{h.num_nodes} * sizeof(NodeRecord) + uint64_t{h.seen_words} * sizeof(uint64_t) +
                             uint64_t{h.num_tickets} * sizeof(TicketRecord);
    return sizeof h + records + h.tree_bytes + sizeof(uint64_t);
}

}  // namespace

std::string Question::to_bytes() const {
    const std::vector<Ask> asks = open_asks();
    if (asks.size() != tickets_.size()) {
        throw std::invalid_argument("save: expected no states between admit and grow; grow or cancel them first");
    }
    const std::string tree = tree_->to_bytes();
    Header h{};
    std::memcpy(h.magic, kMagic, sizeof kMagic);
    h.version = kVersion;
    h.policy = static_cast<uint32_t>(options_->policy);
    h.exploration = options_->exploration, h.decay = options_->decay, h.discount = options_->discount;
    h.tried_exponent = options_->tried_exponent;
    h.widening_scale = options_->widening_scale, h.widening_exponent = options_->widening_exponent;
    h.candidates = options_->candidates, h.patience = options_->patience, h.max_nodes = options_->max_nodes;
    h.stop_reason = static_cast<uint32_t>(stop_reason_);
    h.max_step_tokens = options_->max_step_tokens, h.max_step_prompt_tokens = options_->max_step_prompt_tokens;
    h.step_tool_calls = options_->step_tool_calls, h.max_step_cost = options_->max_step_cost;
    h.token_price = options_->token_price, h.prompt_token_price = options_->prompt_token_price;
    put_amounts(options_->max_score, h.max_score), put_amounts(account_.limits().amounts, h.limits);
    put_amounts(account_.spent(), h.spent), put_amounts(account_.overrun(), h.overrun);
    h.limit_s = account_.limits().seconds, h.elapsed_s = account_.elapsed_s();
    h.seed = seed_, h.invalid = counts_.invalid, h.duplicate = counts_.duplicate, h.refuted = counts_.refuted;
    h.tree_bytes = tree.size();
    h.waiting = waiting_, h.overran = account_.overran(), h.unaffordable = unaffordable_, h.solved_node = solved_node_;
    h.next_ticket = next_ticket_, h.num_tickets = static_cast<uint32_t>(asks.size());
    h.seen_words = static_cast<uint32_t>(seen_.size()), h.num_nodes = tree_->num_nodes();
    std::string bytes;
    bytes.reserve(size_of(h));
    append(bytes, h);
    for (const NodeInfo& info : info_) {
        append(bytes,
               NodeRecord{info.min_tokens, info.tried, info.asked, info.told, info.fruitless, info.unaffordable, 0});
    }
    for (const uint64_t word : seen_) append(bytes, word);
    for (const Ask& ask : asks) {
        const Ticket& ticket = *tickets_.find(ask.ticket);
        TicketRecord record{ask.ticket, ask.node, ask.count, ticket.counted_try, ask.tried, 0, ask.limit,
                            ask.seed,   {},       {}};
        put_amounts(ticket.claim, record.claim), put_amounts(ticket.score_claim, record.score_claim);
        append(bytes, record);
    }
    bytes += tree;
    append(bytes, checksum_of(bytes.data(), bytes.size()));
    return bytes;
}

std::unique_ptr<Question> Question::from_bytes(const char* data, size_t size) {
    require_snapshot(size >= sizeof(Header) + sizeof(uint64_t), "shorter than its header");
    const char* at = data;
    const auto h = take<Header>(at);
    require_snapshot(std::memcmp(h.magic, kMagic, sizeof kMagic) == 0, "not a snapshot of a bavt_fast search");
    require_version(h.version, kVersion);
    require_snapshot(h.tree_bytes <= size && size == size_of(h), "truncated or with bytes left over");
    const char* last = data + size - sizeof(uint64_t);
    require_snapshot(take<uint64_t>(last) == checksum_of(data, size - sizeof(uint64_t)),
                     "damaged: its checksum does not match");
    check_options(h);
    check_state(h);
    std::unique_ptr<Question> question(new Question);
    SearchOptions o;
    o.policy = static_cast<Policy>(h.policy);
    o.exploration = h.exploration, o.decay = h.decay, o.discount = h.discount;
    o.tried_exponent = h.tried_exponent;
    o.widening_scale = h.widening_scale, o.widening_exponent = h.widening_exponent;
    o.candidates = h.candidates, o.patience = h.patience, o.max_nodes = h.max_nodes;
    o.max_step_tokens = h.max_step_tokens, o.max_step_prompt_tokens = h.max_step_prompt_tokens;
    o.step_tool_calls = h.step_tool_calls, o.max_step_cost = h.max_step_cost;
    o.token_price = h.token_price, o.prompt_token_price = h.prompt_token_price, o.max_score = amounts_of(h.max_score);
    question->options_ = std::make_shared<const SearchOptions>(o);
    question->seed_ = h.seed;
    question->counts_ = {h.invalid, h.duplicate, h.refuted};
    question->solved_node_ = h.solved_node;
    question->stop_reason_ = static_cast<StopReason>(h.stop_reason);
    question->unaffordable_ = h.unaffordable != 0, question->waiting_ = h.waiting != 0;
    question->next_ticket_ = h.next_ticket;

    question->info_.resize(h.num_nodes);
    for (NodeInfo& info : question->info_) {
        const auto record = take<NodeRecord>(at);
        require_snapshot(
            record.min_tokens >= 0 && record.tried >= 0.0 && record.tried <= 1.0 && record.unaffordable <= 1,
            "a node is out of range");
        info.tried = record.tried;
        info.min_tokens = record.min_tokens, info.asked = record.asked, info.fruitless = record.fruitless;
        info.unaffordable = record.unaffordable != 0, info.told = record.told;
    }
    question->seen_.resize(h.seen_words);
    for (uint64_t& word : question->seen_) word = take<uint64_t>(at);
    question->account_ = Account({amounts_of(h.limits), h.limit_s});
    question->account_.restore(amounts_of(h.spent), amounts_of(h.overrun), h.overran != 0, h.elapsed_s);
    int64_t previous = -1;
    for (uint32_t i = 0; i < h.num_tickets; ++i) {
        const auto record = take<TicketRecord>(at);
        require_snapshot(record.number > previous && record.number < h.next_ticket, "the tickets are out of order");
        require_snapshot(record.node < h.num_nodes && record.count >= 1 && record.limit >= 1 &&
                             record.counted_try <= 1 && all_at_least(record.claim, 0) &&
                             all_at_least(record.score_claim, 0),
                         "a ticket is out of range");
        previous = record.number;
        Ticket& ticket = question->tickets_.add(record.number);
        ticket.node = record.node, ticket.count = record.count, ticket.limit = record.limit, ticket.seed = record.seed;
        ticket.claim = amounts_of(record.claim), ticket.score_claim = amounts_of(record.score_claim);
        ticket.counted_try = record.counted_try != 0, ticket.tried = record.tried;
        question->account_.reserve(ticket.claim);
        question->account_.reserve(ticket.score_claim);
        ++question->info_[record.node].in_flight;
        question->promised_nodes_ += record.count;
    }

    TreeOptions options;
    options.max_nodes = h.max_nodes, options.decay = h.decay, options.compact = true;
    MemorySource source(at);
    question->tree_ = within_memory([&] { return Tree::read(source, h.tree_bytes, &options); });
    require_snapshot(question->tree_->num_nodes() == h.num_nodes, "the tree has other nodes than the search");
    require_snapshot(question->promised_nodes_ <= h.max_nodes - h.num_nodes, "more is in flight than fits the tree");
    require_snapshot(h.solved_node == kNone ||
                         (h.solved_node < h.num_nodes && (question->tree_->flags(h.solved_node) & kTerminal) != 0),
                     "the solved node is not terminal");
    question->tickets_.for_each([&](uint32_t, const Ticket& ticket) {
        require_snapshot((question->tree_->flags(ticket.node) & (kTerminal | kPruned)) == 0,
                         "an ask is out on a node that cannot be expanded");
    });
    require_snapshot(h.tried_exponent == 0.0 || question->tree_->has_weights(), "the tree has no weights");
    question->count_alive();
    return question;
}

}  // namespace bavt
