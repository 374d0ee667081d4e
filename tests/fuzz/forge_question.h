// Snapshots of questions as a forger makes them (forge.h). The layout is that of csrc/engine/question_snapshot.cpp.
#pragma once

#include "forge.h"

namespace forge {

struct QuestionHeader {
    char magic[8];
    uint32_t version, policy;
    double exploration, decay, discount, tried_exponent, widening_scale, widening_exponent;
    uint32_t candidates, patience, max_nodes, stop_reason;
    int64_t step[6], max_score[4], limits[4], spent[4], overrun[4];
    double limit_s, elapsed_s;
    uint64_t seed, invalid, duplicate, refuted, tree_bytes;
    uint32_t overran, unaffordable, solved_node, next_ticket, num_tickets, seen_words, num_nodes, waiting;
};
static_assert(sizeof(QuestionHeader) == 344);

struct NodeRecord {
    int64_t min_tokens;
    double tried;
    uint32_t asked, told;
    uint16_t fruitless, unaffordable;
    uint32_t reserved;
};

struct TicketRecord {
    uint32_t number, node, count, counted_try, tried, reserved;
    int64_t limit;
    uint64_t seed;
    int64_t claim[4], score_claim[4];
};

inline constexpr uint32_t kQuestionVersion = 2;
inline constexpr size_t kSmallestQuestion = sizeof(QuestionHeader) + sizeof(NodeRecord) + kSmallestTree + kSum;

inline void repair_amounts(int64_t (&amounts)[4], int64_t least, Draws& draws) {
    if (!draws.usually()) return;
    for (int64_t& amount : amounts) {
        if (amount < least) amount = least + static_cast<int64_t>(draws.below(500));
    }
}

inline bool is_share(double number) { return number > 0.0 && number <= 1.0; }

inline void repair_header(QuestionHeader& h, Draws& draws) {
    if (draws.usually()) std::memcpy(h.magic, "BAVTQSTN", 8), h.version = kQuestionVersion;
    if (draws.usually()) h.policy %= 5;
    if (draws.usually() && !std::isfinite(h.exploration)) h.exploration = 1.0;
    if (draws.usually() && !is_share(h.decay)) h.decay = 0.85;
    if (draws.usually() && !is_share(h.discount)) h.discount = 0.97;
    if (draws.usually() && !(h.tried_exponent >= 0.0 && std::isfinite(h.tried_exponent))) h.tried_exponent = 0.5;
    if (draws.usually() && !(h.widening_scale > 0.0 && std::isfinite(h.widening_scale))) h.widening_scale = 1.0;
    if (draws.usually() && !(h.widening_exponent >= 0.0 && h.widening_exponent <= 1.0)) h.widening_exponent = 0.5;
    if (draws.usually()) h.candidates = 1 + h.candidates % (draws.usually() ? 4 : 1 << 16);
    if (draws.usually()) h.patience = 1 + h.patience % (draws.usually() ? 4 : 60'000);
    if (draws.usually()) h.stop_reason %= draws.below(2) == 0 ? 1 : 9;
    if (draws.usually()) h.overran &= 1, h.unaffordable &= 1;
    for (int64_t& amount : h.step) {
        if (amount < 1 && draws.usually()) amount = amount == 0 && &amount != h.step ? 0 : 1 + amount % 64 + 64;
    }
    repair_amounts(h.max_score, 0, draws), repair_amounts(h.limits, 1, draws);
    repair_amounts(h.spent, 0, draws), repair_amounts(h.overrun, 0, draws);
    if (draws.usually() && !(h.limit_s > 0.0)) h.limit_s = 10.0;
    if (draws.usually() && !(h.elapsed_s >= 0.0 && std::isfinite(h.elapsed_s))) h.elapsed_s = 1.0;
}

// The asks that are out; returns how many children they may bring.
inline uint64_t repair_tickets(uint8_t* at, QuestionHeader& h, uint8_t* flags, uint32_t nodes, Draws& draws) {
    uint64_t promised = 0;
    uint32_t number = 0;
    const bool order = draws.usually(), ranges = draws.usually(), ends = draws.usually();
    for (uint32_t i = 0; i < h.num_tickets; ++i, at += sizeof(TicketRecord)) {
        auto ticket = get<TicketRecord>(at);
        if (order) ticket.number = number += ticket.number % 3, ++number;
        if (ranges) {
            ticket.node %= nodes, ticket.count = 1 + ticket.count % 4, ticket.counted_try &= 1;
            if (ticket.limit < 1) ticket.limit = 1 + static_cast<int64_t>(draws.below(64));
            repair_amounts(ticket.claim, 0, draws), repair_amounts(ticket.score_claim, 0, draws);
            if (ends) flags[ticket.node] &= static_cast<uint8_t>(~(bavt::kTerminal | bavt::kPruned));
        }
        promised += ticket.count;
        set(at, ticket);
    }
    if (order && h.next_ticket < number) h.next_ticket = number;
    return promised;
}

// Makes a question of at least kSmallestQuestion bytes at `data`; returns its size, at most `size`.
inline size_t repair_question(uint8_t* data, size_t size, Draws& draws) {
    auto h = get<QuestionHeader>(data);
    repair_header(h, draws);
    size_t left = size - sizeof h - kSum - sizeof(TreeHeader) - kSum;
    constexpr size_t kMost = sizeof(NodeRecord) + kNode + kPrior + kWeight;
    h.num_tickets %= std::min<uint32_t>(6, static_cast<uint32_t>((left - kMost) / sizeof(TicketRecord) + 1));
    left -= h.num_tickets * sizeof(TicketRecord);
    if (draws.usually()) h.waiting = h.num_tickets > 0 && draws.below(4) == 0;
    h.seen_words %= std::min<uint32_t>(9, static_cast<uint32_t>((left - kMost) / sizeof(uint64_t) + 1));
    left -= h.seen_words * sizeof(uint64_t);
    const auto nodes = std::clamp<uint32_t>(h.num_nodes, 1, static_cast<uint32_t>(left / kMost));
    if (draws.usually()) h.num_nodes = nodes;

    uint8_t* at = data + sizeof h;
    const bool records = draws.usually();
    for (uint32_t i = 0; i < nodes; ++i, at += sizeof(NodeRecord)) {
        auto record = get<NodeRecord>(at);
        if (records && record.min_tokens < 0) record.min_tokens = static_cast<int64_t>(draws.below(40));
        if (records) record.unaffordable &= 1;
        if (records && !(record.tried >= 0.0 && record.tried <= 1.0)) record.tried = draws.unit();
        set(at, record);
    }
    uint8_t* const tickets = at + h.seen_words * sizeof(uint64_t);
    uint8_t* const tree = tickets + h.num_tickets * sizeof(TicketRecord);
    auto tree_header = get<TreeHeader>(tree);
    tree_header.has_priors &= 1, tree_header.has_weights &= 1;
    set(tree, tree_header);
    const auto in_tree = draws.usually() ? nodes : static_cast<uint32_t>(1 + draws.below(nodes));
    const size_t tree_bytes = sizeof tree_header + in_tree * bytes_per_node(tree_header) + kSum;
    const size_t tree_size = repair_tree(tree, tree_bytes, draws);
    uint8_t* const flags = tree + tree_size - kSum - in_tree;
    const uint64_t promised = repair_tickets(tickets, h, flags, in_tree, draws);
    if (draws.usually()) {
        const bool fits = h.max_nodes >= nodes + promised && h.max_nodes <= bavt::kMaxNodes;
        if (!fits) h.max_nodes = static_cast<uint32_t>(nodes + promised + h.max_nodes % 64);
    }
    if (draws.usually()) {
        const bool solved = h.stop_reason == 1;
        h.solved_node = solved ? h.solved_node % in_tree : bavt::kNone;
        if (solved && draws.usually()) flags[h.solved_node] = bavt::kTerminal;
    }
    if (draws.usually()) {
        tree_header = get<TreeHeader>(tree);
        tree_header.max_nodes = h.max_nodes, tree_header.decay = h.decay;
        set(tree, tree_header);
        seal(tree, tree + tree_size - kSum);
    }
    if (draws.usually()) h.tree_bytes = tree_size;
    set(data, h);
    uint8_t* const end = tree + tree_size;
    if (draws.usually()) seal(data, end);
    return static_cast<size_t>(end - data) + kSum;
}

}  // namespace forge
