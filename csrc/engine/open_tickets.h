// What is open of a question, by number.
//
// One entry lies in the object itself, and its memory is used again: most questions have no more than one out at a time,
// and in a wave over thousands of them what counts is how many places of memory each of them is spread over.
#pragma once

#include <cstdint>
#include <unordered_map>
#include <utility>

namespace bavt {

template <typename Ticket>
class OpenTickets {
   public:
    size_t size() const { return has_own_ + others_.size(); }
    bool empty() const { return size() == 0; }

    // Null where it is not open.
    const Ticket* find(uint32_t number) const {
        if (has_own_ && own_number_ == number) return &own_;
        if (others_.empty()) return nullptr;
        const auto found = others_.find(number);
        return found == others_.end() ? nullptr : &found->second;
    }
    Ticket* find(uint32_t number) { return const_cast<Ticket*>(std::as_const(*this).find(number)); }

    // A new entry, with whatever an earlier one left in it. Where memory runs out nothing has changed.
    Ticket& add(uint32_t number) {
        if (has_own_) return others_[number];
        has_own_ = true, own_number_ = number;
        return own_;
    }

    void erase(uint32_t number) {
        if (has_own_ && own_number_ == number) {
            has_own_ = false;
        } else {
            others_.erase(number);
        }
    }

    // The entry in the object itself, or null.
    const Ticket* own() const { return has_own_ ? &own_ : nullptr; }

    // Some number that is open, where any is.
    uint32_t any() const { return has_own_ ? own_number_ : others_.begin()->first; }

    // In no order.
    template <typename Use>
    void for_each(Use use) const {
        if (has_own_) use(own_number_, own_);
        for (const auto& [number, ticket] : others_) use(number, ticket);
    }

    // Of what lies elsewhere.
    size_t memory_bytes() const { return others_.size() * (sizeof(Ticket) + 3 * sizeof(void*)); }

   private:
    Ticket own_{};
    uint32_t own_number_ = 0;
    bool has_own_ = false;
    std::unordered_map<uint32_t, Ticket> others_;
};

}  // namespace bavt
