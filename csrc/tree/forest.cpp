#include "tree/forest.h"

#include <algorithm>
#include <atomic>
#include <iterator>
#include <numeric>
#include <stdexcept>
#include <system_error>

namespace bavt {
namespace {

constexpr size_t kParallelFrom = 128;  // pairs of a wave from which on waking the helpers pays
constexpr size_t kPiece = 64;          // pairs, or trees to select in, that a worker takes at a time: some microseconds
constexpr size_t kAhead = 8;           // pairs that memory is fetched ahead of the work on them

std::string megabytes(uint64_t bytes) { return std::to_string((bytes + 999'999) / 1'000'000) + " MB"; }

Workers started(unsigned threads) {
    try {
        return Workers(threads);
    } catch (const std::system_error& error) {
        throw CapacityError("threads: the system gives no " + std::to_string(threads) + " threads (" + error.what() +
                            "); make the forest with fewer");
    }
}

}  // namespace

Forest::Forest(uint32_t num_trees, const TreeOptions& options, unsigned threads)
    : options_(options), workers_(started(threads)) {
    options_.compact = true;
    options_.powers = std::make_shared<const DecayPowers>(options.decay);
    try {
        for (uint32_t i = 0; i < num_trees; ++i) slots_.push_back({new_tree(options.root_value), State::kLive});
    } catch (const std::bad_alloc&) {
        const size_t made = slots_.size();
        slots_.clear();  // what they held is there for the message
        throw CapacityError("num_trees: not enough memory for " + std::to_string(num_trees) + " trees, about " +
                            megabytes(num_trees * Tree::bytes_to_begin_with(options_)) + " in all; it ran out after " +
                            std::to_string(made) + "; make a forest of fewer trees");
    }
}

Forest::Forest(unsigned threads) : workers_(started(threads)) {}

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
    const std::lock_guard lock(mutex_);
    const auto free =
        std::find_if(slots_.begin(), slots_.end(), [](const Slot& s) { return s.state == State::kDropped; });
    if (free == slots_.end()) return add_slot(root_value);
    if (free->tree) {
        free->tree->reset(options_.seed + trees_made_, root_value);
        ++trees_made_;
    } else {
        free->tree = new_tree(root_value);
    }
    free->state = State::kLive;
    return static_cast<TreeId>(free - slots_.begin());
}

TreeId Forest::add_slot(double root_value) {
    if (slots_.size() == kMaxTrees) {
        throw CapacityError("add: a forest holds at most " + std::to_string(kMaxTrees) +
                            " trees; drop() those that are done, or make another forest");
    }
    slots_.push_back({nullptr, State::kLive});
    try {
        slots_.back().tree = new_tree(root_value);
    } catch (...) {
        slots_.pop_back();
        throw;
    }
    return static_cast<TreeId>(slots_.size() - 1);
}

void Forest::finish(TreeId tree) {
    const std::lock_guard lock(mutex_);
    slot(tree).state = State::kFinished;
}

void Forest::drop(TreeId tree) {
    const std::lock_guard lock(mutex_);
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
    const std::lock_guard lock(mutex_);
    if (remaining != nullptr && num_remaining < slots_.size()) {
        throw std::invalid_argument("remaining: expected one number per tree id, " + std::to_string(slots_.size()) +
                                    " of them, got " + std::to_string(num_remaining) +
                                    "; another thread added a tree meanwhile: count again");
    }
    std::vector<Picks> rounds;  // what every round picked
    std::vector<NodeId> nodes;
    const size_t turn = turn_;
    try {
        pick_in_rounds(policy, args, remaining, per_tree, limit, rounds, nodes);
        return gather(rounds, nodes);
    } catch (const std::bad_alloc&) {  // what nobody is told of must not stay marked
        for (const Picks& picks : rounds) {
            for (uint32_t i = 0; i < picks.found; ++i) slots_[picks.tree].tree->release(nodes[picks.begin + i]);
        }
        turn_ = turn;
        throw;
    }
}

// Every round shares what is left among the trees that may have more. A round's picks are in `rounds`, and their place in
// `nodes`, before it begins.
void Forest::pick_in_rounds(Policy policy, const SelectArgs& args, const double* remaining, uint32_t per_tree,
                            size_t limit, std::vector<Picks>& rounds, std::vector<NodeId>& nodes) {
    std::vector<Picks> active = live_from_turn();
    size_t left = limit;
    while (left > 0 && !active.empty()) {
        const auto share = static_cast<uint32_t>(std::clamp<size_t>(left / active.size(), 1, per_tree));
        if (left < active.size()) {
            turn_ = active[left].tree;
            active.resize(left);
        }
        size_t end = nodes.size();
        for (Picks& picks : active) {
            picks.begin = end;
            picks.found = 0;
            picks.quota = std::min(share, per_tree - picks.total);
            end += picks.quota;
        }
        nodes.resize(end);
        const auto round = rounds.insert(rounds.end(), active.begin(), active.end());
        pick(&*round, active.size(), policy, args, remaining, nodes.data());
        size_t kept = 0;
        for (auto picks = round; picks != rounds.end(); ++picks) {
            left -= picks->found;
            picks->total += picks->found;
            if (picks->found == picks->quota && picks->total < per_tree) active[kept++] = *picks;
        }
        active.resize(kept);
    }
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

void Forest::pick(Picks* all, size_t count, Policy policy, const SelectArgs& args, const double* remaining,
                  NodeId* nodes) {
    const bool descends = policy == Policy::kUcb || policy == Policy::kUct || policy == Policy::kPuct;
    workers_.run(count, kPiece, count >= kParallelFrom, [&](size_t begin, size_t end) {
        if (descends) {
            pick_by_descents(all + begin, end - begin, policy, args, remaining, nodes);
        } else {
            pick_globally(all + begin, end - begin, policy, args, remaining, nodes);
        }
    });
}

void Forest::pick_globally(Picks* all, size_t count, Policy policy, SelectArgs args, const double* remaining,
                           NodeId* nodes) {
    for (size_t i = 0; i < count; ++i) {
        Picks& picks = all[i];
        Tree& tree = *slots_[picks.tree].tree;
        if (remaining != nullptr) args.remaining = remaining[picks.tree];
        while (picks.found < picks.quota) {
            const NodeId node = tree.select(policy, args);
            if (node == kNone) break;
            tree.set_flag(node, kInFlight, true);
            nodes[picks.begin + picks.found++] = node;
        }
    }
}

// One leaf of every tree that may have one more, then the next: descents of different trees run side by side.
void Forest::pick_by_descents(Picks* all, size_t count, Policy policy, const SelectArgs& args, const double* remaining,
                              NodeId* nodes) {
    std::vector<Picks*> picking;
    for (size_t i = 0; i < count; ++i) {
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

// The places of a wave's pairs, by their trees: those of one tree follow each other, in the order of the wave.
std::vector<size_t> Forest::by_tree(const Wave& wave) {
    std::vector<size_t> order(wave.size);
    std::iota(order.begin(), order.end(), size_t{0});
    if (std::is_sorted(wave.trees, wave.trees + wave.size)) return order;
    constexpr uint32_t kDigits =
        256;  // pairs are dealt by one digit of the tree's id after the other, the lowest first
    const TreeId highest = *std::max_element(wave.trees, wave.trees + wave.size);
    std::vector<size_t> dealt(wave.size);
    for (uint64_t weight = 1; weight <= highest; weight *= kDigits) {
        const auto digit = [&](size_t pair) { return wave.trees[pair] / weight % kDigits; };
        size_t place[kDigits + 1] = {};
        for (const size_t pair : order) ++place[digit(pair) + 1];
        std::partial_sum(std::begin(place), std::end(place), std::begin(place));
        for (const size_t pair : order) dealt[place[digit(pair)]++] = pair;
        order.swap(dealt);
    }
    return order;
}

// Calls work(begin, end) for ranges of `order` that no tree lies in two of, on all workers.
template <typename Work>
void Forest::for_ranges(const Wave& wave, const std::vector<size_t>& order, Work work) {
    const auto goes_on = [&](size_t i) { return i > 0 && wave.trees[order[i]] == wave.trees[order[i - 1]]; };
    workers_.run(order.size(), kPiece, order.size() >= kParallelFrom, [&](size_t begin, size_t end) {
        while (begin < end && goes_on(begin)) ++begin;  // belongs to the piece before
        if (begin == end) return;
        while (end < order.size() && goes_on(end)) ++end;
        work(begin, end);
    });
}

bool Forest::known(const Wave& wave, size_t pair) const {
    const TreeId tree = wave.trees[pair];
    return tree < slots_.size() && slots_[tree].state != State::kDropped &&
           wave.nodes[pair] < slots_[tree].tree->num_nodes();
}

void Forest::require_known(const Wave& wave) const {
    for (size_t pair = 0; pair < wave.size; ++pair) {
        if (!known(wave, pair)) refuse_unknown(wave, pair);
    }
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

// What a tree needs is fetched while those before it are worked on.
template <typename Apply>
void Forest::for_wave(const Wave& wave, const std::vector<size_t>& order, void (Tree::*prefetch)(NodeId) const,
                      Apply apply) {
    for_ranges(wave, order, [&](size_t begin, size_t end) {
        std::vector<std::pair<size_t, Tree*>> own;
        own.reserve(end - begin);
        for (size_t i = begin; i < end; ++i) own.emplace_back(order[i], slots_[wave.trees[order[i]]].tree.get());
        for (size_t i = 0; i < own.size(); ++i) {
            if (i + 3 * kAhead < own.size()) own[i + 3 * kAhead].second->prefetch();
            if (i + 2 * kAhead < own.size()) own[i + 2 * kAhead].second->prefetch_path();
            if (i + kAhead < own.size()) (own[i + kAhead].second->*prefetch)(wave.nodes[own[i + kAhead].first]);
            apply(own[i].first, *own[i].second);
        }
    });
}

// Makes room for the children, so that growing cannot fail. Refuses what is wrong in the order of the wave, when every
// tree has been looked at.
void Forest::prepare(const Wave& wave, const std::vector<size_t>& order, const Children& children) {
    std::atomic<bool> wrong{false};
    for_ranges(wave, order, [&](size_t begin, size_t end) {
        uint64_t growth = 0;
        for (size_t i = begin; i < end; ++i) {
            const size_t pair = order[i], count = children.count(pair);
            if (i + kAhead < end && wave.trees[order[i + kAhead]] < slots_.size()) {
                __builtin_prefetch(slots_[wave.trees[order[i + kAhead]]].tree.get());
            }
            if (i > begin && wave.trees[pair] != wave.trees[order[i - 1]]) growth = 0;
            growth += count;
            Tree* const tree = known(wave, pair) ? slots_[wave.trees[pair]].tree.get() : nullptr;
            if (tree == nullptr || (count > 0 && !tree->can_expand(wave.nodes[pair], growth))) {
                wrong = true;
                return;
            }
            tree->make_room_for(growth);
        }
    });
    if (wrong) refuse(wave, children);
}

void Forest::refuse(const Wave& wave, const Children& children) const {
    require_known(wave);
    std::vector<uint64_t> growth(slots_.size(), 0);
    for (size_t pair = 0; pair < wave.size; ++pair) {
        const TreeId tree = wave.trees[pair];
        growth[tree] += children.count(pair);
        if (children.count(pair) > 0) slots_[tree].tree->require_expandable(wave.nodes[pair], growth[tree]);
    }
}

void Forest::refuse_growth(size_t count) const {
    TreeOptions alone = options_;
    alone.compact = false;
    throw CapacityError("expand: not enough memory for " + std::to_string(count) + " more nodes in " +
                        std::to_string(slots_.size()) + " trees, up to " + megabytes(count * Tree::kMaxBytesPerNode) +
                        "; a tree that grows large also reserves " + megabytes(Tree::bytes_to_begin_with(alone)) +
                        " of address space for its max_nodes=" + std::to_string(options_.max_nodes) +
                        "; drop() trees that are done, or make a forest of fewer trees or a smaller max_nodes (or "
                        "max_bytes)");
}

std::vector<NodeId> Forest::expand(const Wave& wave, const Children& children) {
    const std::lock_guard lock(mutex_);
    const std::vector<size_t> order = by_tree(wave);
    std::vector<NodeId> first(wave.size, kRoot);
    try {
        prepare(wave, order, children);
    } catch (const std::bad_alloc&) {
        refuse_growth(children.offsets[wave.size]);
    }
    for_wave(wave, order, &Tree::prefetch_expand, [&](size_t pair, Tree& tree) {
        const size_t begin = children.offsets[pair];
        const auto count = static_cast<uint32_t>(children.count(pair));
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
    const std::lock_guard lock(mutex_);
    const std::vector<size_t> order = by_tree(wave);
    std::atomic<bool> wrong{false};
    for_ranges(wave, order, [&](size_t begin, size_t end) {
        for (size_t i = begin; i < end; ++i) {
            if (!known(wave, order[i])) wrong = true;
        }
    });
    if (wrong) require_known(wave);
    for_wave(wave, order, &Tree::prefetch_backup, apply);
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
    const std::lock_guard lock(mutex_);
    require_known(wave);
    for (size_t pair = 0; pair < wave.size; ++pair) slots_[wave.trees[pair]].tree->require_childless(wave.nodes[pair]);
    for_wave(wave, by_tree(wave), &Tree::prefetch_backup,
             [&](size_t pair, Tree& tree) { tree.mark_terminal(wave.nodes[pair]); });
}

// ---- Reading -------------------------------------------------------------------------------------------------------

uint32_t Forest::num_slots() {
    const std::lock_guard lock(mutex_);
    return static_cast<uint32_t>(slots_.size());
}

std::vector<uint32_t> Forest::num_nodes() {
    const std::lock_guard lock(mutex_);
    std::vector<uint32_t> counts;
    for (const Slot& slot : slots_) counts.push_back(slot.state == State::kDropped ? 0 : slot.tree->num_nodes());
    return counts;
}

std::vector<uint8_t> Forest::live() {
    const std::lock_guard lock(mutex_);
    std::vector<uint8_t> live;
    for (const Slot& slot : slots_) live.push_back(slot.state == State::kLive);
    return live;
}

}  // namespace bavt
