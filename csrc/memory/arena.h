// Memory for many objects of one plain type that come and go one by one and end together. Each chunk is half of all before it,
// so that a few objects take little, and large chunks lie in huge pages. What is given back is taken first.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdlib>
#include <memory>
#include <new>
#include <type_traits>
#include <vector>

#include "memory/reservation.h"

namespace bavt {

template <typename T>
class Arena {
    static_assert(std::is_trivially_destructible_v<T> && sizeof(T) % alignof(T) == 0 && sizeof(T) >= sizeof(void*));

   public:
    // What the object holds is not defined. Throws std::bad_alloc.
    T* take() {
        if (free_ != nullptr) {
            Free* const taken = free_;
            free_ = taken->next;
            return new (taken) T;
        }
        if (next_ == end_) add_chunk();
        return new (next_++) T;
    }
    void give(T* object) { free_ = new (object) Free{free_}; }

   private:
    struct Free {
        Free* next;
    };
    struct Release {
        void operator()(T* memory) const { std::free(memory); }
    };

    void add_chunk() {
        const size_t count = std::max<size_t>(made_ / 2, 1), bytes = count * sizeof(T);
        const bool huge = bytes >= Reservation::kHugePage;
        const size_t alignment = huge ? Reservation::kHugePage : std::max(alignof(T), alignof(std::max_align_t));
        const size_t whole = (bytes + alignment - 1) / alignment * alignment;
        void* const memory = std::aligned_alloc(alignment, whole);
        if (memory == nullptr) throw std::bad_alloc();
        std::unique_ptr<T[], Release> chunk(static_cast<T*>(memory));
        chunks_.push_back(std::move(chunk));
        if (huge) Reservation::prefer_huge_pages(static_cast<char*>(memory), static_cast<char*>(memory) + bytes);
        next_ = chunks_.back().get();
        end_ = next_ + count;
        made_ += count;
    }

    std::vector<std::unique_ptr<T[], Release>> chunks_;
    T* next_ = nullptr;
    T* end_ = nullptr;
    Free* free_ = nullptr;
    size_t made_ = 0;
};

}  // namespace bavt
