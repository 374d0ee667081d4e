#include "tree/forest.h"

#include <algorithm>
#include <stdexcept>

namespace bavt {
namespace {

constexpr size_t kParallelFrom = 128;  // pairs of a wave from which on waking the helpers pays
constexpr size_t kAhead = 8;           // pairs that memory is fetched ahead of the work on them

}  // namespace

Forest::Forest(uint32_t num_trees, const TreeOptions& options, unsigned threads)
    : options_(options), workers_(threads) {
    options_.compact = true;
    options_.powers = std::make_shared<const DecayPowers>(options.decay);
    for (uint32_t i = 0; i < num_trees; ++i) slots_.push_back({new_tree(options.root_value), State::kLive});
}

std::unique_ptr<Tree> Forest::new_tree(double root_value) {
    TreeOptions options = options_;
    options.seed += trees_made_;
    options.root_value = root_value;
    auto tree = std::make_unique<Tree>(options);
    ++trees_made_;
    return tree;
}

Forest::Slot& Forest::slot(TreeId tree) {
    if (tree < slots_.size() && slots_[tree].state != State::kDropped) return slots_[tree];
    throw std::out_of_range("tree: " + std::to_string(tree) +
                            " is not a tree of this forest; it was dropped or never added");
}

TreeId Forest::add(double root_value) {
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto free =
        std::find_if(slots_.begin(), slots_.end(), [](const Slot& s) { return s.state == State::kDropped; });
    if (free == slots_.end()) {
        if (slots_.size() == kMaxTrees) {
            throw CapacityError("add: a forest holds at most " + std::to_string(kMaxTrees) +
                                " trees; drop() those that are done, or make another forest");
        }
        slots_.push_back({new_tree(root_value), State::kLive});
        return static_cast<TreeId>(slots_.size() - 1);
    }
    if (free->tree) {
        free->tree->reset(options_.seed + trees_made_, root_value);
        ++trees_made_;
    } else {
        free->tree = new_tree(root_value);
    }
    free->state = State::kLive;
    return static_cast<TreeId>(free - slots_.begin());
}

void Forest::finish(TreeId tree) {
    const std::lock_guard<std::mutex> lock(mutex_);
    slot(tree).state = State::kFinished;
}

void Forest::drop(TreeId tree) {
    const std::lock_guard<std::mutex> lock(mutex_);
    slot(tree).state = State::kDropped;
}

// ---- Selecting -----------------------------------------------------------------------------------------------------

// The live trees, beginning with the one whose turn it is.
std::vector<Forest::Picks> Forest::live_from_turn() const {
    std::vector<Picks> live;
    live.reserve(slots_.size());
    const auto add = [&](size_t begin, size_t end) {
        for (size_t i = begin; i < end; ++i) {
            if (slots_[i].state == State::kLive) live.push_back({static_cast<TreeId>(i), 0, 0, 0});
        }
    };
    add(turn_, slots_.size());
    add(0, turn_);
    return live;
}

Selection Forest::select(Policy policy, const SelectArgs& args, const double* remaining, uint32_t per_tree,
                         size_t limit, size_t num_remaining) {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (remaining != nullptr && num_remaining < slots_.size()) {
        throw std::invalid_argument("remaining: expected one number per tree id, " + std::to_string(slots_.size()) +
                                    " of them, got " + std::to_string(num_remaining) +
                                    "; another thread added a tree meanwhile: count again");
    }
    std::vector<Picks> active = live_from_turn();
    std::vector<Picks> rounds;  // what every round picked
    std::vector<NodeId> nodes;
    size_t left = limit;
    while (left > 0 && !active.empty()) {  // every round shares what is left among the trees that may have more
        const auto share = static_cast<uint32_t>(std::clamp<size_t>(left / active.size(), 1, per_tree));
        if (left < active.size()) {
            turn_ = active[left].tree;
            active.resize(left);
        }
        size_t end = nodes.size();
        for (Picks& picks : active) {
            picks.begin = end;
            picks.quota = std::min(share, per_tree - picks.total);
            end += picks.quota;
        }
        nodes.resize(end);
        pick(active, policy, args, remaining, nodes.data());
        for (Picks& picks : active) {
            left -= picks.found;
            picks.total += picks.found;
        }
        rounds.insert(rounds.end(), active.begin(), active.end());
        const auto has_no_more = [&](const Picks& p) { return p.found < p.quota || p.total == per_tree; };
        active.erase(std::remove_if(active.begin(), active.end(), has_no_more), active.end());
    }
    return gather(rounds, nodes);
}

// The leaves in order of their trees, those of a tree in the order they were picked in.
Selection Forest::gather(std::vector<Picks>& rounds, const std::vector<NodeId>& nodes) {
    const auto by_tree = [](const Picks& a, const Picks& b) { return a.tree < b.tree; };
    if (!std::is_sorted(rounds.begin(), rounds.end(), by_tree)) std::stable_sort(rounds.begin(), rounds.end(), by_tree);
    size_t size = 0;
    for (const Picks& picks : rounds) size += picks.found;
    Selection selection{std::vector<TreeId>(size), std::vector<NodeId>(size)};
    size_t at = 0;
    for (const Picks& picks : rounds) {
        for (uint32_t i = 0; i < picks.found; ++i, ++at) {
            selection.trees[at] = picks.tree;
            selection.nodes[at] = nodes[picks.begin + i];
        }
    }
    return selection;
}

void Forest::pick(std::vector<Picks>& active, Policy policy, const SelectArgs& args, const double* remaining,
                  NodeId* nodes) {
    const bool descends = policy == Policy::kUcb || policy == Policy::kUct || policy == Policy::kPuct;
    workers_.run(active.size() >= kParallelFrom, [&](unsigned worker) {
        const auto [begin, end] = share_of(active.size(), worker, workers_.count());
        if (descends) {
            pick_by_descents(&active[begin], end - begin, policy, args, remaining, nodes);
        } else {
            pick_globally(&active[begin], end - begin, policy, args, remaining, nodes);
        }
    });
}

void Forest::pick_globally(Picks* all, size_t count, Policy policy, SelectArgs args, const double* remaining,
                           NodeId* nodes) {
    for (size_t i = 0; i < count; ++i) {
        Picks& picks = all[i];
        Tree& tree = *slots_[picks.tree].tree;
        if (remaining != nullptr) args.remaining = remaining[picks.tree];
        for (picks.found = 0; picks.found < picks.quota; ++picks.found) {
            const NodeId node = tree.select(policy, args);
            if (node == kNone) break;
            tree.set_flag(node, kInFlight, true);
            nodes[picks.begin + picks.found] = node;
        }
    }
}

// One leaf of every tree that may have one more, then the next: descents of different trees run side by side.
void Forest::pick_by_descents(Picks* all, size_t count, Policy policy, const SelectArgs& args, const double* remaining,
                              NodeId* nodes) {
    std::vector<Picks*> picking;
    for (size_t i = 0; i < count; ++i) {
        all[i].found = 0;
        if (all[i].quota > 0) picking.push_back(&all[i]);
    }
    std::vector<Tree*> trees;
    std::vector<double> remaining_of;
    std::vector<NodeId> leaves;
    while (!picking.empty()) {
        trees.clear(), remaining_of.clear(), leaves.resize(picking.size());
        for (const Picks* picks : picking) {
            trees.push_back(slots_[picks->tree].tree.get());
            if (remaining != nullptr) remaining_of.push_back(remaining[picks->tree]);
        }
        Tree::descend_many(policy, trees.data(), trees.size(), args,
                           remaining == nullptr ? nullptr : remaining_of.data(), leaves.data());
        size_t kept = 0;
        for (size_t i = 0; i < picking.size(); ++i) {
            Picks& picks = *picking[i];
            if (leaves[i] == kNone) continue;
            trees[i]->mark_selected(leaves[i]);
            nodes[picks.begin + picks.found++] = leaves[i];
            if (picks.found < picks.quota) picking[kept++] = &picks;
        }
        picking.resize(kept);
    }
}

// ---- Waves ---------------------------------------------------------------------------------------------------------

// Refuses the first pair for which `good` does not hold by refuse(pair), which throws.
template <typename Good, typename Refuse>
void Forest::require_all(const Wave& wave, Good good, Refuse refuse) {
    std::vector<size_t> first_bad(workers_.count(), wave.size);
    workers_.run(wave.size >= kParallelFrom, [&](unsigned worker) {
        const auto [begin, end] = share_of(wave.size, worker, workers_.count());
        for (size_t pair = begin; pair < end; ++pair) {
            if (good(pair)) continue;
            first_bad[worker] = pair;
            return;
        }
    });
    for (const size_t pair : first_bad) {
        if (pair < wave.size) refuse(pair);
    }
}

bool Forest::known(const Wave& wave, size_t pair) const {
    const TreeId tree = wave.trees[pair];
    return tree < slots_.size() && slots_[tree].state != State::kDropped &&
           wave.nodes[pair] < slots_[tree].tree->num_nodes();
}

void Forest::require_known(const Wave& wave) {
    require_all(wave, [&](size_t pair) { return known(wave, pair); }, [&](size_t pair) { refuse_unknown(wave, pair); });
}

void Forest::refuse_unknown(const Wave& wave, size_t pair) const {
    const TreeId tree = wave.trees[pair];
    const std::string at = " at " + std::to_string(pair);
    if (tree >= slots_.size() || slots_[tree].state == State::kDropped) {
        throw std::out_of_range("trees: " + std::to_string(tree) + at +
                                " is not a tree of this forest; it was dropped or never added");
    }
    throw std::out_of_range("nodes: expected an id from 0 to " + std::to_string(slots_[tree].tree->num_nodes() - 1) +
                            " in tree " + std::to_string(tree) + ", got " + std::to_string(wave.nodes[pair]) + at);
}

// Workers own contiguous ranges of tree ids. What a tree needs is fetched while those before it are worked on.
template <typename Apply>
void Forest::for_wave(const Wave& wave, void (Tree::*prefetch)(NodeId) const, Apply apply) {
    workers_.run(wave.size >= kParallelFrom, [&](unsigned worker) {
        const auto [begin, end] = share_of(slots_.size(), worker, workers_.count());
        std::vector<std::pair<size_t, Tree*>> own;
        own.reserve(wave.size / workers_.count() + kAhead);
        for (size_t pair = 0; pair < wave.size; ++pair) {
            const TreeId tree = wave.trees[pair];
            if (tree >= begin && tree < end) own.emplace_back(pair, slots_[tree].tree.get());
        }
        for (size_t i = 0; i < own.size(); ++i) {
            if (i + 3 * kAhead < own.size()) own[i + 3 * kAhead].second->prefetch();
            if (i + 2 * kAhead < own.size()) own[i + 2 * kAhead].second->prefetch_path();
            if (i + kAhead < own.size()) (own[i + kAhead].second->*prefetch)(wave.nodes[own[i + kAhead].first]);
            apply(own[i].first, *own[i].second);
        }
    });
}

// Pairs of one tree add up, so each is first held against all children of the wave, and counted out where that is too
// many.
void Forest::require_expandable(const Wave& wave, const Children& children) {
    const auto count_of = [&](size_t pair) { return children.offsets[pair + 1] - children.offsets[pair]; };
    const size_t all = children.offsets[wave.size];
    const auto surely = [&](size_t pair) {
        return known(wave, pair) &&
               (count_of(pair) == 0 || slots_[wave.trees[pair]].tree->can_expand(wave.nodes[pair], all));
    };
    require_all(wave, surely, [&](size_t) {
        require_known(wave);
        std::vector<uint64_t> growth(slots_.size(), 0);
        for (size_t pair = 0; pair < wave.size; ++pair) {
            const TreeId tree = wave.trees[pair];
            growth[tree] += count_of(pair);
            if (count_of(pair) > 0) slots_[tree].tree->require_expandable(wave.nodes[pair], growth[tree]);
        }
    });
}

std::vector<NodeId> Forest::expand(const Wave& wave, const Children& children) {
    const std::lock_guard<std::mutex> lock(mutex_);
    require_expandable(wave, children);
    std::vector<NodeId> first(wave.size, kRoot);
    for_wave(wave, &Tree::prefetch_expand, [&](size_t pair, Tree& tree) {
        const size_t begin = children.offsets[pair];
        const auto count = static_cast<uint32_t>(children.offsets[pair + 1] - begin);
        if (count > 0) {
            first[pair] = tree.expand_selected(wave.nodes[pair], children.values + begin,
                                               children.terminal == nullptr ? nullptr : children.terminal + begin,
                                               children.priors == nullptr ? nullptr : children.priors + begin, count);
        } else {
            tree.release(wave.nodes[pair]);
        }
    });
    return first;
}

void Forest::backup(const Wave& wave, const double* values, Backup mode) {
    change(wave, [&](size_t pair, Tree& tree) {
        tree.backup(wave.nodes[pair], values[pair], mode);
        tree.release(wave.nodes[pair]);
    });
}

template <typename Apply>
void Forest::change(const Wave& wave, Apply apply) {
    const std::lock_guard<std::mutex> lock(mutex_);
    require_known(wave);
    for_wave(wave, &Tree::prefetch_backup, apply);
}

void Forest::cancel(const Wave& wave) {
    change(wave, [&](size_t pair, Tree& tree) { tree.release(wave.nodes[pair]); });
}

void Forest::penalize(const Wave& wave) {
    change(wave, [&](size_t pair, Tree& tree) { tree.penalize(wave.nodes[pair]); });
}

void Forest::prune(const Wave& wave) {
    change(wave, [&](size_t pair, Tree& tree) { tree.prune(wave.nodes[pair]); });
}

void Forest::close(const Wave& wave) {
    change(wave, [&](size_t pair, Tree& tree) { tree.set_flag(wave.nodes[pair], kClosed, true); });
}

void Forest::mark_terminal(const Wave& wave) {
    const std::lock_guard<std::mutex> lock(mutex_);
    require_known(wave);
    for (size_t pair = 0; pair < wave.size; ++pair) slots_[wave.trees[pair]].tree->require_childless(wave.nodes[pair]);
    for_wave(wave, &Tree::prefetch_backup, [&](size_t pair, Tree& tree) { tree.mark_terminal(wave.nodes[pair]); });
}

// ---- Reading -------------------------------------------------------------------------------------------------------

uint32_t Forest::num_slots() {
    const std::lock_guard<std::mutex> lock(mutex_);
    return static_cast<uint32_t>(slots_.size());
}

std::vector<uint32_t> Forest::num_nodes() {
    const std::lock_guard<std::mutex> lock(mutex_);
    std::vector<uint32_t> counts;
    for (const Slot& slot : slots_) counts.push_back(slot.state == State::kDropped ? 0 : slot.tree->num_nodes());
    return counts;
}

std::vector<uint8_t> Forest::live() {
    const std::lock_guard<std::mutex> lock(mutex_);
    std::vector<uint8_t> live;
    for (const Slot& slot : slots_) live.push_back(slot.state == State::kLive);
    return live;
}

}  // namespace bavt
