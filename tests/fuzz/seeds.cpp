// Writes the fuzzers' first inputs: trees, forests and questions of several shapes, below the folder that is named.
#include <cstdio>
#include <string>

#include "engine/question.h"
#include "tree/forest.h"
#include "use_tree.h"

namespace {

using bavt::Forest;
using bavt::Tree;

// A tree that was searched, and had some of its nodes taken out.
void grow(Tree& tree, uint32_t nodes, uint32_t children, uint64_t seed, bool priors, bool weights) {
    forge::Draws draws(seed);
    std::vector<double> values(children);
    const std::vector<double> lighter(children, 0.25);
    const std::vector<float> even(children, 0.5f);
    while (tree.num_nodes() + children <= nodes) {
        for (double& value : values) value = draws.unit();
        bavt::NodeId node = tree.select(draws.below(2) == 0 ? bavt::Policy::kPower : bavt::Policy::kUct, {});
        if (node == bavt::kNone) node = bavt::kRoot;
        const bavt::NodeId first = tree.expand(node, values.data(), nullptr, priors ? even.data() : nullptr, children,
                                               weights ? lighter.data() : nullptr);
        tree.backup(first, values[0], bavt::Backup::kMean);
        if (draws.below(8) == 0) tree.mark_terminal(first);
        if (draws.below(8) == 0) tree.set_flag(first, bavt::kInFlight, true);
        if (draws.below(16) == 0) tree.prune(first + children - 1);
        if (draws.below(4) == 0) tree.penalize(node);
    }
}

// Writes a question after some rounds of a search, with asks out.
void write_question(const std::string& path, uint64_t seed) {
    using bavt::kUnlimited;
    forge::Draws draws(seed);
    bavt::SearchOptions options;
    options.policy = static_cast<bavt::Policy>(seed % 5);
    options.candidates = static_cast<uint32_t>(1 + draws.below(3));
    options.discount = seed % 2 == 0 ? 1.0 : 0.9;
    options.tried_exponent = seed % 3 == 0 ? 0.5 : 0.0;
    options.max_nodes = 150, options.token_price = 1'000'000;
    bavt::Limits limits;
    limits.amounts = {
        {static_cast<int64_t>(300 + draws.below(2000)), kUnlimited, kUnlimited, seed % 3 == 0 ? 50'000 : kUnlimited}};
    if (seed % 4 == 0) limits.seconds = 60.0;
    bavt::Question question(seed, limits, std::make_shared<const bavt::SearchOptions>(options), {});
    question.see_key(0);
    int64_t key = 1;
    for (auto rounds = draws.below(40); rounds > 0; --rounds) {
        bavt::Ask ask;
        if (question.ask(&ask) != bavt::Question::Outcome::kAsked) break;
        if (draws.below(8) == 0) continue;
        const bavt::StepCost cost{5, 0, bavt::kNotGiven, bavt::kNotGiven, 0.0};
        uint8_t is_new, terminal = draws.below(6) == 0, verified = terminal && draws.below(8) == 0;
        const int64_t known = static_cast<int64_t>(draws.below(8)) > 0 ? key++ : -1, least = 2;
        const double probability = 0.2 * draws.unit();
        if (question.admit(ask.ticket, &cost, &known, 1, &is_new, &probability) == 0) continue;
        double value = draws.unit();
        (void)question.grow(ask.ticket, {1, &value, nullptr, &terminal, &verified, &least, false, {}}, &value);
    }
    const std::string bytes = question.to_bytes();
    std::FILE* const file = std::fopen(path.c_str(), "wb");
    fuzz::require(file != nullptr, "the folder can be written to");
    fuzz::require(std::fwrite(bytes.data(), 1, bytes.size(), file) == bytes.size(), "the seed is written");
    std::fclose(file);
}

}  // namespace

int main(int argc, char** argv) {
    if (argc != 2) return std::fprintf(stderr, "usage: %s FOLDER\n", argv[0]), 2;
    const std::string folder = argv[1];
    uint64_t seed = 0;
    for (const uint32_t nodes : {1u, 2u, 10u, 60u, 120u}) {
        for (const uint32_t children : {1u, 3u, 16u}) {
            bavt::TreeOptions options;
            options.max_nodes = seed % 2 == 0 ? 200 : bavt::kMaxNodes;
            options.seed = ++seed;
            Tree tree(options);
            grow(tree, nodes, children, seed, seed % 3 == 0, seed % 4 == 1);
            tree.save(folder + "/tree/" + std::to_string(seed));
        }
    }
    for (const uint32_t trees : {0u, 1u, 3u, 8u}) {
        bavt::TreeOptions options;
        options.max_nodes = 60;
        Forest forest(trees, options, 1);
        for (uint32_t tree = 0; tree < trees; ++tree) {
            forest.with_tree(
                tree, [&](Tree& t) { grow(t, 5 + 5 * tree % 25, 1 + tree % 4, ++seed, tree % 3 == 1, tree % 4 == 2); });
        }
        if (trees > 2) forest.finish(0), forest.drop(1);
        forest.save(folder + "/forest/" + std::to_string(trees));
    }
    for (uint64_t number = 0; number < 30; ++number) {
        write_question(folder + "/question/" + std::to_string(number), number);
    }
}
