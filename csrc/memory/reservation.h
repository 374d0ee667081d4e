// Address space for the columns of one tree, reserved at once; the operating system gives it memory as it is touched.
// Elements never move, so growth copies nothing and pointers and numpy views stay good while the reservation lives.
// Memory that was never touched reads as zeros.
//
// Making and faulting in a mapping takes longer than a small search, so a few reservations whose memory is small are
// kept for the next tree of the same size. A recycled one holds what its owner left in it.
#pragma once

#include <sys/mman.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <new>
#include <utility>
#include <vector>

#include "memory/fork.h"

namespace bavt {

class Reservation {
   public:
    static constexpr size_t kPage = 4096;
    static constexpr size_t kHugePage = size_t{2} << 20;

    explicit Reservation(size_t bytes)
        : bytes_(bytes), data_(Shelf::shared().take(bytes)), recycled_(data_ != nullptr) {
        if (!recycled_) data_ = map_aligned(bytes);
    }
    ~Reservation() {
        if (!Shelf::shared().put(bytes_, data_)) munmap(data_, bytes_);
    }
    Reservation(const Reservation&) = delete;
    Reservation& operator=(const Reservation&) = delete;

    char* data() const { return data_; }
    bool recycled() const { return recycled_; }

    // Fetches the pages of [begin, end) in one system call instead of one fault each. Only advice: errors do not matter.
    static void populate(char* begin, char* end) {
#ifdef MADV_POPULATE_WRITE
        char* first = page_after(begin);
        char* last = page_after(end);
        if (last > first) (void)madvise(first, static_cast<size_t>(last - first), MADV_POPULATE_WRITE);
#else
        (void)begin, (void)end;
#endif
    }

    // Asks for huge pages from `begin`, where one can start, to `end`: a descent through a big tree misses the TLB at every
    // level otherwise, and faults in small pages take longer than the search.
    static void prefer_huge_pages(char* begin, char* end) {
#ifdef MADV_HUGEPAGE
        if (begin < end) (void)madvise(begin, static_cast<size_t>(end - begin), MADV_HUGEPAGE);
#else
        (void)begin, (void)end;
#endif
    }

    // Gives the whole pages of [begin, end) back; they read as zeros from now on.
    static void discard(char* begin, char* end) {
        char* first = page_after(begin);
        char* last = page_after(end - (kPage - 1));
        if (last > first) (void)madvise(first, static_cast<size_t>(last - first), MADV_DONTNEED);
    }

   private:
    // Begins at a multiple of kHugePage; the rest of a mapping that is larger by as much is given back.
    static char* map_aligned(size_t bytes) {
        const size_t all = bytes + kHugePage;
        void* memory = mmap(nullptr, all, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (memory == MAP_FAILED) throw std::bad_alloc();
        char* begin = static_cast<char*>(memory);
        const size_t skipped = (kHugePage - reinterpret_cast<uintptr_t>(begin) % kHugePage) % kHugePage;
        if (skipped > 0) munmap(begin, skipped);
        munmap(begin + skipped + bytes, all - skipped - bytes);
        return begin + skipped;
    }
    static char* page_after(char* p) { return p + (kPage - reinterpret_cast<uintptr_t>(p) % kPage) % kPage; }

    class Shelf {
       public:
        static Shelf& shared() {
            static Shelf* const shelf = new Shelf;  // outlives every tree, also those of static duration
            return *shelf;
        }
        char* take(size_t bytes) {
            const std::lock_guard lock(mutex_);
            const auto same = [bytes](const auto& item) { return item.first == bytes; };
            const auto found = std::find_if(items_.begin(), items_.end(), same);
            if (found == items_.end()) return nullptr;
            char* data = found->second;
            items_.erase(found);
            return data;
        }
        bool put(size_t bytes, char* data) {
            const std::lock_guard lock(mutex_);
            if (items_.size() == kItems) return false;
            items_.emplace_back(bytes, data);
            return true;
        }

       private:
        static constexpr size_t kItems = 16;
        ForkSafeMutex mutex_{ForkSafeMutex::kMemory};
        std::vector<std::pair<size_t, char*>> items_;
    };

    size_t bytes_;
    char* data_;
    bool recycled_;
};

// One field of every node, inside a reservation.
template <typename T>
struct Column {
    T* data = nullptr;

    T& operator[](size_t i) const { return data[i]; }
    char* at(size_t i) const { return reinterpret_cast<char*>(data + i); }
};

}  // namespace bavt
