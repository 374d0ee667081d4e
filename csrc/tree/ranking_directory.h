// Where the leaves of a ranking (ranking.h) are: groups of up to 32 leaves, and one list of the groups.
//
//     list     last_weight, last   [ 0.81   0.40 ... ]           the node that each group ends with
//              sizes, sums         [  900    744 ... ]           and a Fenwick tree (Fenwick 1994) over them
//     group    last_weight, last   [ 0.97   0.93   0.88 ... ]    the node that each leaf ends with
//              ends, leaves        [   51    100    160 ... ]    how many ids there are up to there
//
// A split rewrites two leaves and one group, and the list once for some hundreds of inserts. A leaf that is full first
// shares with a neighbour of its group, so that leaves are four fifths full on average.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <utility>
#include <vector>

#include "memory/arena.h"
#include "tree/ranking_leaf.h"
#include "tree/types.h"

namespace bavt {

class RankDirectory {
   public:
    struct Item {
        double weight;
        NodeId node;
    };
    struct Place {
        size_t group;
        uint32_t leaf;
        bool operator==(const Place& other) const { return group == other.group && leaf == other.leaf; }
    };
    // Where a rank is in its leaf, and what the weights of the leaf are at most and at least.
    struct Entry {
        const RankKey* key;
        const NodeId* node;
        double most, least;
    };

    // Of at least one item, in their order.
    explicit RankDirectory(const std::vector<Item>& items) {
        size_t next = 0;
        while (next < items.size()) {
            Group& group = *groups_arena_.take();
            group.clear();
            while (group.num_leaves < kFilledLeaves && next < items.size()) {
                const auto count = static_cast<uint32_t>(std::min<size_t>(kFilledIds, items.size() - next));
                RankLeaf& leaf = *leaves_arena_.take();
                for (uint32_t i = 0; i < count; ++i) {
                    leaf.keys[i] = rank_key::of(items[next + i].weight);
                    leaf.ids[i] = items[next + i].node;
                }
                leaf.cut(count);
                next += count;
                group.append(&leaf, count, items[next - 1].weight, items[next - 1].node);
            }
            add_group(groups_.size(), group);
        }
        sum();
    }

    // The first leaf whose last node is not before `node`, or the last leaf: first its group, and then the leaf of it.
    size_t group_for(NodeId node, double own) const {
        return first_not_before(last_weight_.data(), last_.data(), groups_.size(), node, own);
    }
    uint32_t leaf_for(size_t group, NodeId node, double own) const { return groups_[group]->leaf_for(node, own); }
    Place locate(NodeId node, double own) const {
        const size_t group = group_for(node, own);
        return {group, leaf_for(group, node, own)};
    }
    void prefetch(size_t group) const {
        if (groups_.size() > kNear) prefetch_object(groups_[group]);
    }
    void prefetch(Place place) const { prefetch_object(groups_[place.group]->leaves[place.leaf]); }

    // Puts a node into its leaf. Returns whether leaves have moved, so that other places are void.
    template <typename Weight>
    bool insert(Place place, NodeId node, double own, Weight weight) {
        const uint32_t size = put(place, node, own, weight);
        add(place, 1);
        if (size + 1 < RankLeaf::kRoom) return false;
        make_space(place, weight);
        return true;
    }

    // Takes a node out that had the weight `own` when it was put in, and returns the same.
    template <typename Weight>
    bool erase(Place place, NodeId node, double own, Weight weight) {
        take(place, node, own, weight);
        add(place, -1);
        const uint32_t size = groups_[place.group]->size_of(place.leaf);
        if (size == 0) {
            drop_leaf(place);
            return true;
        }
        return size == RankLeaf::kRoom / 4 &&
               (merge(place) || (place.leaf > 0 && merge({place.group, place.leaf - 1})));
    }

    // A node that is in the leaf with the weight `from`, and stays in it with another one.
    template <typename Weight>
    void move(Place place, NodeId node, double from, double to, Weight weight) {
        Group& group = *groups_[place.group];
        take(place, node, from, weight);
        group.add(place.leaf, -1);
        put(place, node, to, weight);
        group.add(place.leaf, 1);
    }

    Entry find(size_t rank) const {
        size_t index = 0;
        if (rank >= sizes_[0]) {
            for (size_t step = sums_.size() / 2; step > 0; step /= 2) {  // without a branch, as below
                const size_t before = sums_[index + step];
                const bool behind = before <= rank;
                index += behind ? step : 0;
                rank -= behind ? before : 0;
            }
        }
        const Group& group = *groups_[index];
        const uint32_t leaf = group.leaf_of_rank(static_cast<uint16_t>(rank));
        rank -= group.begin_of(leaf);
        const RankLeaf& found = *group.leaves[leaf];
        return {&found.keys[rank], &found.ids[rank], most({index, leaf}), group.last_weight[leaf]};
    }

   private:
    static constexpr uint32_t kLeaves = 32;
    static constexpr uint32_t kFilledLeaves = kLeaves / 8 * 7;  // by the constructor
    static constexpr uint32_t kFilledIds = RankLeaf::kRoom / 16 * 15;
    static constexpr uint32_t kRoomy = RankLeaf::kRoom / 4 * 3;  // ids of a leaf that can take some of a neighbour's
    static constexpr size_t kNear = 64;                          // groups that stay in the cache
    static constexpr double kNoWeight = -1.0;                    // of unused entries: not above any weight
    static constexpr double kNoBound = std::numeric_limits<double>::infinity();

    // Scans take all entries, used or not, and no branch: neither the compiler nor the processor has to guess where to stop.
    struct alignas(64) Group {
        double last_weight[kLeaves];
        NodeId last[kLeaves];
        RankLeaf* leaves[kLeaves];
        uint16_t ends[kLeaves];  // past the last leaf: as many as there are in all
        uint32_t num_leaves;

        void clear() {
            num_leaves = 0;
            std::fill_n(last_weight, kLeaves, kNoWeight);
            std::fill_n(ends, kLeaves, uint16_t{0});
        }
        uint32_t size() const { return ends[kLeaves - 1]; }
        uint32_t begin_of(uint32_t leaf) const { return leaf > 0 ? ends[leaf - 1] : 0u; }
        uint32_t size_of(uint32_t leaf) const { return ends[leaf] - begin_of(leaf); }
        void add(uint32_t leaf, int delta) {
            for (uint32_t i = 0; i < kLeaves; ++i) ends[i] = static_cast<uint16_t>(ends[i] + (i >= leaf ? delta : 0));
        }
        uint32_t leaf_of_rank(uint16_t rank) const {
            uint16_t count = 0;
            for (uint32_t i = 0; i < kLeaves; ++i) count = static_cast<uint16_t>(count + (ends[i] <= rank));
            return count;
        }
        uint32_t leaf_for(NodeId node, double own) const {
            int64_t count = 0;
            for (uint32_t i = 0; i < kLeaves; ++i) count += last_weight[i] > own;
            auto first = static_cast<uint32_t>(count);
            while (first < num_leaves && last_weight[first] == own && last[first] < node) ++first;
            return std::min(first, num_leaves - 1);
        }
        void append(RankLeaf* leaf, uint32_t size, double weight, NodeId node) {
            leaves[num_leaves] = leaf;
            last_weight[num_leaves] = weight;
            last[num_leaves] = node;
            add(num_leaves++, static_cast<int>(size));
        }
        // Another leaf behind this one, which takes some of its ids: the last ones.
        void insert_behind(uint32_t leaf, RankLeaf* other, uint32_t taken) {
            const auto back = [&](auto* column) {
                std::copy_backward(column + leaf, column + kLeaves - 1, column + kLeaves);
            };
            back(last_weight), back(last), back(leaves), back(ends);
            leaves[leaf + 1] = other;
            ends[leaf] = static_cast<uint16_t>(ends[leaf] - taken);
            ++num_leaves;
        }
        // Its ids, if it has any, count as those of the leaf behind it.
        void remove(uint32_t leaf) {
            const auto forth = [&](auto* column) { std::copy(column + leaf + 1, column + kLeaves, column + leaf); };
            forth(last_weight), forth(last), forth(leaves), forth(ends);
            last_weight[--num_leaves] = kNoWeight;
        }
        // Puts the other's leaves from `from` on behind its own, and leaves the other with those before.
        void take_from(Group& other, uint32_t from) {
            const uint32_t kept = other.begin_of(from);
            for (uint32_t i = from; i < other.num_leaves; ++i) {
                append(other.leaves[i], other.size_of(i), other.last_weight[i], other.last[i]);
            }
            std::fill(other.last_weight + from, other.last_weight + kLeaves, kNoWeight);
            std::fill(other.ends + from, other.ends + kLeaves, static_cast<uint16_t>(kept));
            other.num_leaves = from;
        }
    };
    static_assert(kLeaves * RankLeaf::kRoom <= 0x7FFF, "ends are compared as 16 bits");

    template <typename Object>
    static void prefetch_object(const Object* object) {
        const char* const begin = reinterpret_cast<const char*>(object);
        for (size_t byte = 0; byte < sizeof(Object); byte += 64) __builtin_prefetch(begin + byte, 1);
    }

    // Without a branch on weights, which cannot be predicted.
    static size_t first_not_before(const double* last_weight, const NodeId* last, size_t count, NodeId node,
                                   double own) {
        size_t first = 0;
        for (size_t left = count - 1; left > 0;) {  // the last one will do in any case
            const size_t half = (left + 1) / 2;
            const double its = last_weight[first + half - 1];
            const bool before = (its > own) | ((its == own) & (last[first + half - 1] < node));
            first += before ? half : 0;
            left = before ? left - half : half - 1;
        }
        return first;
    }

    // What the weights of a leaf are at most.
    double most(Place place) const {
        if (place.leaf > 0) return groups_[place.group]->last_weight[place.leaf - 1];
        return place.group > 0 ? last_weight_[place.group - 1] : kNoBound;
    }

    // Returns how many the leaf held.
    template <typename Weight>
    uint32_t put(Place place, NodeId node, double own, Weight weight) {
        Group& group = *groups_[place.group];
        RankLeaf& leaf = *group.leaves[place.leaf];
        const uint32_t size = group.size_of(place.leaf);
        const uint32_t at = leaf.place_for(node, own, most(place), group.last_weight[place.leaf], size, weight);
        leaf.put(at, size, node, own);
        if (at == size) set_last(place, own, node);
        return size;
    }

    template <typename Weight>
    void take(Place place, NodeId node, double own, Weight weight) {
        const Group& group = *groups_[place.group];
        RankLeaf& leaf = *group.leaves[place.leaf];
        const uint32_t size = group.size_of(place.leaf), at = leaf.place_of(node, own);
        leaf.take(at, size);
        if (at + 1 == size && size > 1) set_last(place, weight(leaf.ids[size - 2]), leaf.ids[size - 2]);
    }

    void set_last(Place place, double weight, NodeId node) {
        Group& group = *groups_[place.group];
        group.last_weight[place.leaf] = weight;
        group.last[place.leaf] = node;
        if (place.leaf + 1 == group.num_leaves) last_weight_[place.group] = weight, last_[place.group] = node;
    }

    void note_last(size_t index) {
        const Group& group = *groups_[index];
        last_weight_[index] = group.last_weight[group.num_leaves - 1];
        last_[index] = group.last[group.num_leaves - 1];
    }

    // Of a leaf that is full: a neighbour takes some of it, or it becomes two.
    template <typename Weight>
    void make_space(Place place, Weight weight) {
        const Group& group = *groups_[place.group];
        if (place.leaf + 1 < group.num_leaves && group.size_of(place.leaf + 1) <= kRoomy) {
            balance(place, weight);
        } else if (place.leaf > 0 && group.size_of(place.leaf - 1) <= kRoomy) {
            balance({place.group, place.leaf - 1}, weight);
        } else {
            split(place, weight);
        }
    }

    // Makes a leaf and the next one of its group equally full.
    template <typename Weight>
    void balance(Place place, Weight weight) {
        Group& group = *groups_[place.group];
        RankLeaf &left = *group.leaves[place.leaf], &right = *group.leaves[place.leaf + 1];
        const int sizes[2] = {static_cast<int>(group.size_of(place.leaf)),
                              static_cast<int>(group.size_of(place.leaf + 1))};
        const int wanted = (sizes[0] + sizes[1]) / 2, moved = wanted - sizes[0];  // from right to left
        if (moved > 0) {
            left.append(static_cast<uint32_t>(sizes[0]), right, 0, static_cast<uint32_t>(moved));
            right.shift(static_cast<uint32_t>(sizes[1]), -moved);
        } else {
            right.shift(static_cast<uint32_t>(sizes[1]), -moved);
            right.append(0, left, static_cast<uint32_t>(wanted), static_cast<uint32_t>(-moved));
            left.cut(static_cast<uint32_t>(wanted));
        }
        group.ends[place.leaf] = static_cast<uint16_t>(group.ends[place.leaf] + moved);
        const NodeId last = left.ids[wanted - 1];
        set_last(place, weight(last), last);
    }

    template <typename Weight>
    void split(Place place, Weight weight) {
        constexpr uint32_t kHalf = RankLeaf::kRoom / 2;
        if (groups_[place.group]->num_leaves == kLeaves) {
            split_group(place.group);
            if (place.leaf >= kLeaves / 2) place = {place.group + 1, place.leaf - kLeaves / 2};
        }
        RankLeaf& upper = *leaves_arena_.take();
        Group& group = *groups_[place.group];
        RankLeaf& lower = *group.leaves[place.leaf];
        upper.append(0, lower, kHalf, kHalf);
        upper.cut(kHalf);
        lower.cut(kHalf);
        group.insert_behind(place.leaf, &upper, kHalf);
        const NodeId last = lower.ids[kHalf - 1];
        set_last(place, weight(last), last);
    }

    // Puts the next leaf's ids behind this one's, where both are in a group and together leave room.
    bool merge(Place place) {
        Group& group = *groups_[place.group];
        if (place.leaf + 1 >= group.num_leaves) return false;
        const uint32_t size = group.size_of(place.leaf), other = group.size_of(place.leaf + 1);
        if (size + other > kRoomy) return false;
        group.leaves[place.leaf]->append(size, *group.leaves[place.leaf + 1], 0, other);
        std::swap(group.leaves[place.leaf], group.leaves[place.leaf + 1]);
        drop_leaf(place);
        return true;
    }

    void drop_leaf(Place place) {
        Group& group = *groups_[place.group];
        leaves_arena_.give(group.leaves[place.leaf]);
        group.remove(place.leaf);
        if (group.num_leaves == 0) return drop_group(place.group);
        note_last(place.group);
        if (group.num_leaves == kLeaves / 4 && !merge_groups(place.group) && place.group > 0)
            merge_groups(place.group - 1);
    }

    void split_group(size_t index) {
        Group& upper = *groups_arena_.take();
        upper.clear();
        Group& lower = *groups_[index];
        upper.take_from(lower, kLeaves / 2);
        add_group(index + 1, upper);
        note_last(index);
        sizes_[index] = lower.size();
        sum();
    }

    bool merge_groups(size_t index) {
        if (index + 1 >= groups_.size()) return false;
        Group &group = *groups_[index], &next = *groups_[index + 1];
        if (group.num_leaves + next.num_leaves > kLeaves / 4 * 3) return false;
        group.take_from(next, 0);
        note_last(index);
        sizes_[index] += sizes_[index + 1];
        drop_group(index + 1);
        return true;
    }

    void add_group(size_t index, Group& group) {
        const auto at = static_cast<std::ptrdiff_t>(index);
        groups_.insert(groups_.begin() + at, &group);
        last_weight_.insert(last_weight_.begin() + at, group.last_weight[group.num_leaves - 1]);
        last_.insert(last_.begin() + at, group.last[group.num_leaves - 1]);
        sizes_.insert(sizes_.begin() + at, group.size());
    }

    void drop_group(size_t index) {
        const auto at = static_cast<std::ptrdiff_t>(index);
        groups_arena_.give(groups_[index]);
        groups_.erase(groups_.begin() + at);
        last_weight_.erase(last_weight_.begin() + at);
        last_.erase(last_.begin() + at);
        sizes_.erase(sizes_.begin() + at);
        sum();
    }

    // sums_[i] holds the ids of the groups (i - lowbit(i), i], counted from 1, with nothing past the last group up to a power
    // of two.
    void sum() {
        const size_t count = groups_.size();
        size_t room = 1;
        while (room <= count) room *= 2;
        sums_.assign(room, 0);
        for (size_t i = 1; i < room; ++i) {
            if (i <= count) sums_[i] += sizes_[i - 1];
            const size_t next = i + (i & (~i + 1));
            if (next < room) sums_[next] += sums_[i];
        }
    }

    void add(Place place, int delta) {
        groups_[place.group]->add(place.leaf, delta);
        sizes_[place.group] += static_cast<uint32_t>(delta);
        for (size_t i = place.group + 1; i < sums_.size(); i += i & (~i + 1)) sums_[i] += static_cast<uint32_t>(delta);
    }

    Arena<RankLeaf> leaves_arena_;
    Arena<Group> groups_arena_;
    std::vector<Group*> groups_;
    std::vector<double> last_weight_;
    std::vector<NodeId> last_;
    std::vector<uint32_t> sizes_;
    std::vector<uint32_t> sums_;
};

}  // namespace bavt
