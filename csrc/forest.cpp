#include "forest.h"

#include <algorithm>
#include <stdexcept>

namespace bavt {
namespace {

constexpr size_t kParallelFrom = 128;  // pairs of a wave from which on waking the helpers pays

}  // namespace

Forest::Forest(uint32_t num_trees, const TreeOptions& options, unsigned threads)
    : options_(options), workers_(threads) {
    for (uint32_t i = 0; i < num_trees; ++i) slots_.push_back({new_tree(options.root_value), State::kLive, {}});
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
        slots_.push_back({new_tree(root_value), State::kLive, {}});
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

// Workers own contiguous ranges of tree ids.
std::pair<TreeId, TreeId> Forest::range_of(unsigned worker) const {
    const uint64_t trees = slots_.size(), workers = workers_.count();
    return {static_cast<TreeId>(trees * worker / workers), static_cast<TreeId>(trees * (worker + 1) / workers)};
}

std::vector<TreeId> Forest::live_from_turn() const {
    std::vector<TreeId> live;
    for (size_t i = 0; i < slots_.size(); ++i) {
        const size_t tree = (turn_ + i) % slots_.size();
        if (slots_[tree].state == State::kLive) live.push_back(static_cast<TreeId>(tree));
    }
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
    std::vector<TreeId> active = live_from_turn();
    for (Slot& slot : slots_) slot.found.clear();
    size_t left = limit;
    while (left > 0 && !active.empty()) {  // every round shares what is left among the trees that may have more
        const auto share = static_cast<uint32_t>(std::clamp<size_t>(left / active.size(), 1, per_tree));
        if (left < active.size()) {
            turn_ = active[left];
            active.resize(left);
        }
        std::vector<uint32_t> quotas;
        for (const TreeId tree : active) {
            quotas.push_back(std::min(share, per_tree - static_cast<uint32_t>(slots_[tree].found.size())));
        }
        std::vector<size_t> before;
        for (const TreeId tree : active) before.push_back(slots_[tree].found.size());
        select_from(active, quotas, policy, args, remaining);
        std::vector<TreeId> still_active;
        for (size_t i = 0; i < active.size(); ++i) {
            const size_t now = slots_[active[i]].found.size();
            left -= now - before[i];
            if (now - before[i] == quotas[i] && now < per_tree) still_active.push_back(active[i]);
        }
        active = std::move(still_active);
    }
    Selection selection;
    for (TreeId tree = 0; tree < slots_.size(); ++tree) {
        const std::vector<NodeId>& found = slots_[tree].found;
        selection.trees.insert(selection.trees.end(), found.size(), tree);
        selection.nodes.insert(selection.nodes.end(), found.begin(), found.end());
    }
    return selection;
}

void Forest::select_from(const std::vector<TreeId>& trees, const std::vector<uint32_t>& quotas, Policy policy,
                         const SelectArgs& args, const double* remaining) {
    workers_.run(trees.size() >= kParallelFrom, [&](unsigned worker) {
        const auto [begin, end] = range_of(worker);
        SelectArgs own = args;
        for (size_t i = 0; i < trees.size(); ++i) {
            if (trees[i] < begin || trees[i] >= end) continue;
            Slot& slot = slots_[trees[i]];
            if (remaining != nullptr) own.remaining = remaining[trees[i]];
            for (uint32_t k = 0; k < quotas[i]; ++k) {
                const NodeId node = slot.tree->select(policy, own);
                if (node == kNone) break;
                slot.tree->set_flag(node, kInFlight, true);
                slot.found.push_back(node);
            }
        }
    });
}

// ---- Waves ---------------------------------------------------------------------------------------------------------

void Forest::require_known(const Wave& wave) const {
    for (size_t pair = 0; pair < wave.size; ++pair) {
        const TreeId tree = wave.trees[pair];
        const bool known = tree < slots_.size() && slots_[tree].state != State::kDropped;
        if (!known || wave.nodes[pair] >= slots_[tree].tree->num_nodes()) refuse(wave, pair);
    }
}

void Forest::refuse(const Wave& wave, size_t pair) const {
    const TreeId tree = wave.trees[pair];
    const std::string at = " at " + std::to_string(pair);
    if (tree >= slots_.size() || slots_[tree].state == State::kDropped) {
        throw std::out_of_range("trees: " + std::to_string(tree) + at +
                                " is not a tree of this forest; it was dropped or never added");
    }
    throw std::out_of_range("nodes: expected an id from 0 to " + std::to_string(slots_[tree].tree->num_nodes() - 1) +
                            " in tree " + std::to_string(tree) + ", got " + std::to_string(wave.nodes[pair]) + at);
}

template <typename Apply>
void Forest::for_wave(const Wave& wave, Apply apply) {
    workers_.run(wave.size >= kParallelFrom, [&](unsigned worker) {
        const auto [begin, end] = range_of(worker);
        for (size_t pair = 0; pair < wave.size; ++pair) {
            const TreeId tree = wave.trees[pair];
            if (tree >= begin && tree < end) apply(pair, *slots_[tree].tree);
        }
    });
}

void Forest::require_expandable(const Wave& wave, const Children& children) const {
    std::vector<uint64_t> growth(slots_.size(), 0);
    for (size_t pair = 0; pair < wave.size; ++pair) {
        const size_t count = children.offsets[pair + 1] - children.offsets[pair];
        if (count == 0) continue;
        const TreeId id = wave.trees[pair];
        const Tree& tree = *slots_[id].tree;
        growth[id] += count;
        tree.require_expandable(wave.nodes[pair], growth[id]);
    }
}

std::vector<NodeId> Forest::expand(const Wave& wave, const Children& children) {
    const std::lock_guard<std::mutex> lock(mutex_);
    require_known(wave);
    require_expandable(wave, children);
    std::vector<NodeId> first(wave.size, kRoot);
    for_wave(wave, [&](size_t pair, Tree& tree) {
        const size_t begin = children.offsets[pair];
        const auto count = static_cast<uint32_t>(children.offsets[pair + 1] - begin);
        if (count > 0) {
            first[pair] = tree.expand(wave.nodes[pair], children.values + begin,
                                      children.terminal == nullptr ? nullptr : children.terminal + begin,
                                      children.priors == nullptr ? nullptr : children.priors + begin, count);
        }
        tree.set_flag(wave.nodes[pair], kInFlight, false);
    });
    return first;
}

void Forest::backup(const Wave& wave, const double* values, Backup mode) {
    const std::lock_guard<std::mutex> lock(mutex_);
    require_known(wave);
    for_wave(wave, [&](size_t pair, Tree& tree) {
        tree.backup(wave.nodes[pair], values[pair], mode);
        tree.set_flag(wave.nodes[pair], kInFlight, false);
    });
}

void Forest::cancel(const Wave& wave) {
    const std::lock_guard<std::mutex> lock(mutex_);
    require_known(wave);
    for_wave(wave, [&](size_t pair, Tree& tree) { tree.set_flag(wave.nodes[pair], kInFlight, false); });
}

void Forest::penalize(const Wave& wave) {
    const std::lock_guard<std::mutex> lock(mutex_);
    require_known(wave);
    for_wave(wave, [&](size_t pair, Tree& tree) { tree.penalize(wave.nodes[pair]); });
}

void Forest::prune(const Wave& wave) {
    const std::lock_guard<std::mutex> lock(mutex_);
    require_known(wave);
    for_wave(wave, [&](size_t pair, Tree& tree) { tree.prune(wave.nodes[pair]); });
}

void Forest::close(const Wave& wave) {
    const std::lock_guard<std::mutex> lock(mutex_);
    require_known(wave);
    for_wave(wave, [&](size_t pair, Tree& tree) { tree.set_flag(wave.nodes[pair], kClosed, true); });
}

void Forest::mark_terminal(const Wave& wave) {
    const std::lock_guard<std::mutex> lock(mutex_);
    require_known(wave);
    for (size_t pair = 0; pair < wave.size; ++pair) slots_[wave.trees[pair]].tree->require_childless(wave.nodes[pair]);
    for_wave(wave, [&](size_t pair, Tree& tree) { tree.mark_terminal(wave.nodes[pair]); });
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
