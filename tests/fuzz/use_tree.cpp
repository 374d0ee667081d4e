#include "use_tree.h"

#include <stdexcept>
#include <vector>

namespace fuzz {
namespace {

using bavt::kNone;
using bavt::kRoot;
using bavt::Policy;

constexpr Policy kPolicies[] = {Policy::kPower, Policy::kBestFirst, Policy::kUcb, Policy::kUct, Policy::kPuct};

// Whether a descent may end in each node's subtree, from parents and flags alone.
std::vector<bool> open_subtrees(const Tree& tree) {
    const uint32_t nodes = tree.num_nodes();
    std::vector<bool> open(nodes, false), parent_of_any(nodes, false);
    for (NodeId node = nodes; node-- > 0;) {
        const uint8_t flags = tree.flags(node);
        const bool ends = (flags & (bavt::kTerminal | bavt::kPruned)) != 0;
        open[node] = !ends && (parent_of_any[node] ? open[node] : flags == 0);
        if (node == kRoot) break;
        parent_of_any[tree.parents()[node]] = true;
        if (open[node]) open[tree.parents()[node]] = true;
    }
    return open;
}

void check_nodes(const Tree& tree) {
    require(tree.num_nodes() <= tree.max_nodes(), "a tree has no more nodes than it may have");
    for (NodeId node = 0; node < tree.num_nodes(); ++node) {
        const uint8_t flags = tree.flags(node);
        const NodeId parent = tree.parents()[node];
        require((flags & ~bavt::kAllFlags) == 0, "flags are known");
        require(std::isfinite(tree.values()[node]), "values are finite");
        require(std::isfinite(tree.weights()[node]), "weights are finite");
        require(tree.has_weights() || tree.weights()[node] == tree.values()[node], "a weight is V unless it is given");
        require(!std::isnan(tree.hot()[node].value_sum), "sums are numbers");
        if (node == kRoot) continue;
        require((tree.flags(parent) & bavt::kPruned) == 0 || (flags & bavt::kPruned) != 0, "pruned is all below");
    }
}

void check_links(const Tree& tree) {
    uint32_t children = 0;
    for (NodeId node = 0; node < tree.num_nodes(); ++node) {
        NodeId before = node;
        for (const NodeId child : tree.children(node)) {
            require(child > before && child < tree.num_nodes(), "children come in order, after their parent");
            require(tree.parents()[child] == node, "children know their parent");
            require((tree.flags(node) & bavt::kTerminal) == 0, "a terminal node has no children");
            before = child;
            ++children;
        }
    }
    require(children == tree.num_nodes() - 1, "every node but the root is a child");
}

uint32_t most_visits(const Tree& tree) {
    uint32_t most = 0;
    for (NodeId node = 0; node < tree.num_nodes(); ++node) most = std::max(most, tree.hot()[node].visits);
    return most;
}

// What a verb came to: its result, or the error that it gave.
enum Outcome : uint64_t { kDone = uint64_t{1} << 40, kFull, kRefused };

template <typename Verb>
uint64_t outcome(Tree& tree, Verb verb) {
    const std::string before = tree.num_nodes() < 64 ? tree.to_bytes() : std::string();
    const auto refused = [&](Outcome result) {
        require(before.empty() || before == tree.to_bytes(), "what is refused changes nothing");
        return static_cast<uint64_t>(result);
    };
    try {
        return verb();
    } catch (const bavt::CapacityError&) {
        return refused(kFull);
    } catch (const std::invalid_argument&) {
        return refused(kRefused);
    }
}

uint64_t expand(Tree& tree, NodeId node, uint64_t seed) {
    forge::Draws draws(seed);
    double values[20], weights[20];
    float priors[20];
    uint8_t terminal[20];
    const auto count = static_cast<uint32_t>(1 + draws.below(draws.usually() ? 4 : 20));
    for (uint32_t i = 0; i < count; ++i) {
        values[i] = draws.unit() * 2 - 0.5;
        weights[i] = draws.unit() - 0.1;
        priors[i] = static_cast<float>(draws.below(3)) / 2;
        terminal[i] = draws.below(6) == 0;
    }
    const bool with_terminal = draws.below(2) == 0, with_priors = draws.below(4) == 0;
    const bool with_weights = draws.below(4) == 0;
    return outcome(tree, [&]() -> uint64_t {
        return tree.expand(node, values, with_terminal ? terminal : nullptr, with_priors ? priors : nullptr, count,
                           with_weights ? weights : nullptr);
    });
}

uint64_t reroot(Tree& tree, NodeId node) {
    uint64_t sum = 0;
    for (const NodeId old : tree.reroot(node)) sum = bavt::mix64(sum ^ old);
    return sum;
}

uint64_t best_path(const Tree& tree) {
    uint64_t sum = 0;
    NodeId above = kRoot;
    for (const NodeId node : tree.best_path()) {
        require(tree.parents()[node] == above, "the best path goes down from the root");
        sum = bavt::mix64(sum ^ node);
        above = node;
    }
    return sum;
}

uint64_t select(Tree& tree, uint64_t seed) {
    forge::Draws draws(seed);
    bavt::SelectArgs args;
    constexpr double kRemaining[] = {1.0, 0.3, 1e-9, 0.0};
    args.remaining = kRemaining[draws.below(4)];
    args.exploration = draws.unit() * 2;
    if (draws.below(4) == 0) args.max_depth = static_cast<uint32_t>(draws.below(4));
    return tree.select(kPolicies[draws.below(5)], args);
}

// One verb, drawn by `seed`, on a node if it takes one.
uint64_t step(Tree& tree, uint64_t seed) {
    forge::Draws draws(seed);
    const auto node = static_cast<NodeId>(draws.below(tree.num_nodes()));
    const auto flag = static_cast<bavt::Flag>(draws.below(2) == 0 ? bavt::kClosed : bavt::kInFlight);
    switch (draws.below(20)) {
        case 0:
            tree.prune(node);
            return kDone;
        case 1:
            return outcome(tree, [&]() -> uint64_t {
                tree.mark_terminal(node);
                return kDone;
            });
        case 2:
            return draws.below(4) == 0 ? reroot(tree, node) : best_path(tree);
        case 3:
        case 4:
            tree.set_flag(node, flag, draws.below(2) == 0);
            return kDone;
        case 5:
        case 6:
            tree.penalize(node);
            return kDone;
        case 7:
        case 8:
        case 9:
        case 10:
            tree.backup(node, draws.unit() - 0.25, draws.below(3) == 0 ? bavt::Backup::kMax : bavt::Backup::kMean);
            return kDone;
        case 11:
        case 12:
        case 13:
        case 14:
            return expand(tree, node, draws.next());
        default:
            return select(tree, draws.next());
    }
}

}  // namespace

void check(Tree& tree) {
    check_nodes(tree);
    check_links(tree);
    const std::vector<bool> open = open_subtrees(tree);
    bool any_weighty = false;
    for (NodeId node = 0; node < tree.num_nodes(); ++node)
        any_weighty |= tree.flags(node) == 0 && tree.weights()[node] > 0;
    for (const Policy policy : kPolicies) {
        const NodeId node = tree.select(policy, {});
        const bool global = policy == Policy::kPower || policy == Policy::kBestFirst;
        require((node != kNone) == (global ? any_weighty : open[kRoot]), "a policy finds a node where there is one");
        if (node == kNone) continue;
        require(node < tree.num_nodes() && tree.flags(node) == 0, "what is selected is open");
        require(global ? tree.weights()[node] > 0 : tree.children(node).empty(), "descents end at leaves");
    }
    best_path(tree);
}

void use(Tree& tree, forge::Draws& draws) {
    check(tree);
    const std::string saved = tree.to_bytes();
    const std::unique_ptr<Tree> copy = Tree::from_bytes(saved.data(), saved.size());
    require(copy->to_bytes() == saved, "a snapshot of what was loaded is what was loaded");
    const auto steps = static_cast<int>(draws.below(48));
    for (int i = 0; i < steps; ++i) {
        if (most_visits(tree) > UINT32_MAX - 8) break;  // the next backups would make it 0
        const uint64_t seed = draws.next();
        require(step(tree, seed) == step(*copy, seed), "a copy does what the tree does");
    }
    check(tree);
    check(*copy);
    require(copy->to_bytes() == tree.to_bytes(), "a copy becomes what the tree becomes");
}

}  // namespace fuzz
