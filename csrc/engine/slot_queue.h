// Questions that take turns: a ring of their slots. Room is made when a question is added, so that nothing that an answer
// does takes memory.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace bavt {

class SlotQueue {
   public:
    size_t size() const { return size_; }
    uint32_t operator[](size_t place) const { return ring_[(first_ + place) & (ring_.size() - 1)]; }

    // For so many slots in all. Throws std::bad_alloc, and nothing has changed.
    void make_room(size_t slots) {
        if (slots <= ring_.size()) return;
        size_t room = std::max<size_t>(ring_.size(), 8);
        while (room < slots) room *= 2;
        std::vector<uint32_t> larger(room);
        for (size_t place = 0; place < size_; ++place) larger[place] = (*this)[place];
        ring_.swap(larger);
        first_ = 0;
    }
    void push(uint32_t slot) { ring_[(first_ + size_++) & (ring_.size() - 1)] = slot; }
    void pop() { ++first_, --size_; }

    // Closes the gap where the slot was.
    void remove(uint32_t slot) {
        size_t kept = 0;
        for (size_t place = 0; place < size_; ++place) {
            const uint32_t other = (*this)[place];
            if (other != slot) ring_[(first_ + kept++) & (ring_.size() - 1)] = other;
        }
        size_ = kept;
    }

   private:
    std::vector<uint32_t> ring_;  // a power of two
    size_t first_ = 0, size_ = 0;
};

}  // namespace bavt
