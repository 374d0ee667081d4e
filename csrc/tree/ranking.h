// The open nodes of a tree in order of their weight, heaviest first and the oldest first among equals.
//
// A tree of fewer than 64 open nodes has one leaf of ids (ranking_leaf.h), a larger one a directory of leaves
// (ranking_directory.h). Insert, erase and look-up by rank take O(log n) plus a shift inside one leaf. A node costs 8 bytes
// plus what is free in its leaf, a fifth as a rule. The ranking does not hold weights: the caller gives them with every
// call, as a function of the id, and tells what changes before the next call.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <utility>
#include <vector>

#include "tree/ranking_directory.h"
#include "tree/ranking_leaf.h"
#include "tree/types.h"

namespace bavt {

class Ranking {
   public:
    using Item = RankDirectory::Item;

    using Entry = RankDirectory::Entry;

    static constexpr size_t kBatch = 8;  // nodes that are inserted with their cache misses overlapped

    size_t size() const { return size_; }

    void build(std::vector<Item> items) {
        std::sort(items.begin(), items.end(), [](const Item& a, const Item& b) {
            return a.weight != b.weight ? a.weight > b.weight : a.node < b.node;
        });
        size_ = items.size();
        if (size_ >= RankLeaf::kRoom) {
            directory_ = std::make_unique<RankDirectory>(items);
        } else if (size_ > 0) {
            make_only();
            for (uint32_t i = 0; i < size_; ++i) only_->put(i, i, items[i].node, items[i].weight);
        }
    }

    // At most kBatch nodes that are not in. Their cache misses overlap; `meanwhile` is called now and then, while memory is
    // waited for.
    template <typename Weight, typename Meanwhile>
    void insert(const NodeId* nodes, size_t count, Weight weight, Meanwhile meanwhile) {
        size_t next = 0;
        for (; !directory_ && next < count; ++next) insert_small(nodes[next], weight);
        double own[kBatch];
        RankDirectory::Place places[kBatch];
        for (size_t i = next; i < count; ++i) {
            own[i] = weight(nodes[i]);
            places[i].group = directory_->group_for(nodes[i], own[i]);
            directory_->prefetch(places[i].group);
        }
        meanwhile();
        for (size_t i = next; i < count; ++i) {
            places[i].leaf = directory_->leaf_for(places[i].group, nodes[i], own[i]);
            directory_->prefetch(places[i]);
        }
        bool moved = false;
        for (size_t i = next; i < count; ++i) {
            meanwhile();
            if (moved) places[i] = directory_->locate(nodes[i], own[i]);
            moved |= directory_->insert(places[i], nodes[i], own[i], weight);
            ++size_;
        }
    }

    template <typename Weight>
    void erase(NodeId node, Weight weight) {
        const double own = weight(node);
        if (directory_) {
            directory_->erase(directory_->locate(node, own), node, own, weight);
        } else {
            only_->take(only_->place_of(node, own), static_cast<uint32_t>(size_));
        }
        if (--size_ == 0) directory_.reset();
    }

    // A node whose weight was `from` and has changed since.
    template <typename Weight>
    void move(NodeId node, double from, Weight weight) {
        const double to = weight(node);
        if (from == to) return;
        if (!directory_) {
            only_->take(only_->place_of(node, from), static_cast<uint32_t>(size_--));
            return put_small(node, to, weight);
        }
        RankDirectory::Place old_place{directory_->group_for(node, from), 0}, place{directory_->group_for(node, to), 0};
        directory_->prefetch(old_place.group);
        directory_->prefetch(place.group);
        old_place.leaf = directory_->leaf_for(old_place.group, node, from);
        place.leaf = directory_->leaf_for(place.group, node, to);
        if (old_place == place) return directory_->move(place, node, from, to, weight);
        directory_->prefetch(old_place);
        directory_->prefetch(place);
        if (directory_->erase(old_place, node, from, weight)) place = directory_->locate(node, to);
        directory_->insert(place, node, to, weight);
    }

    // What is at a rank from 0 to size() - 1.
    NodeId at(size_t rank) const { return *find(rank).node; }
    Entry find(size_t rank) const {
        return directory_ ? directory_->find(rank) : Entry{&only_->keys[rank], &only_->ids[rank], kNoBound, 0.0};
    }

   private:
    static constexpr double kNoBound = std::numeric_limits<double>::infinity();

    void make_only() {
        only_ = std::make_unique<RankLeaf>();
        only_->clear();
    }

    template <typename Weight>
    void insert_small(NodeId node, Weight weight) {
        if (!only_) make_only();
        put_small(node, weight(node), weight);
        if (size_ < RankLeaf::kRoom) return;
        std::vector<Item> items;
        for (const NodeId id : only_->ids) items.push_back({weight(id), id});
        directory_ = std::make_unique<RankDirectory>(items);
        only_.reset();
    }

    template <typename Weight>
    void put_small(NodeId node, double own, Weight weight) {
        const auto size = static_cast<uint32_t>(size_++);
        only_->put(only_->place_for(node, own, kNoBound, 0.0, size, weight), size, node, own);
    }

    size_t size_ = 0;
    std::unique_ptr<RankLeaf> only_;
    std::unique_ptr<RankDirectory> directory_;
};

}  // namespace bavt
