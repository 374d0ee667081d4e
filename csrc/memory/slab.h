// Memory for small trees: slabs of a few sizes, cut from large chunks and kept for reuse when they come back.
//
// A forest of a thousand small trees would spread over ten thousand pages if each tree had mappings of its own, and every
// step of a wave would miss the TLB. Slabs lie close together, in huge pages once there are many of them.
#pragma once

#include <sys/mman.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <new>
#include <utility>

#include "memory/fork.h"

namespace bavt {

// A slab, or none. What it holds at first is undefined.
class Slab {
   public:
    static constexpr size_t kClasses = 9;

    Slab() = default;
    Slab(size_t size_class, size_t bytes) : size_class_(size_class), data_(Pool::shared().take(size_class, bytes)) {}
    ~Slab() {
        if (data_ != nullptr) Pool::shared().put(size_class_, data_);
    }
    Slab(Slab&& other) noexcept { swap(other); }
    Slab& operator=(Slab&& other) noexcept {
        Slab(std::move(other)).swap(*this);
        return *this;
    }
    void swap(Slab& other) noexcept {
        std::swap(size_class_, other.size_class_);
        std::swap(data_, other.data_);
    }

    char* data() const { return data_; }

   private:
    class Pool {
       public:
        static Pool& shared() {
            static Pool* const pool = new Pool;  // outlives every tree, also those of static duration
            return *pool;
        }
        char* take(size_t size_class, size_t bytes) {
            const std::lock_guard lock(mutex_);
            char* data = free_[size_class];
            if (data == nullptr) return cut(bytes);
            free_[size_class] = next_of(data);
            return data;
        }
        void put(size_t size_class, char* data) {
            const std::lock_guard lock(mutex_);
            next_of(data) = free_[size_class];
            free_[size_class] = data;
        }

       private:
        static constexpr size_t kHugePage = size_t{2} << 20;
        static constexpr size_t kSmallChunk = size_t{1} << 18;
        static constexpr size_t kChunk = 8 * kHugePage;
        static constexpr size_t kLine = 64;

        // A free slab begins with the address of the next one.
        static char*& next_of(char* slab) { return *reinterpret_cast<char**>(slab); }

        char* cut(size_t bytes) {
            bytes = (bytes + kLine - 1) / kLine * kLine;
            if (bytes > left_) new_chunk(bytes);
            char* data = at_;
            at_ += bytes;
            left_ -= bytes;
            return data;
        }
        // The first chunks are small and of ordinary pages: a process with a few small trees clears no megabytes.
        void new_chunk(size_t at_least) {
            const bool small = chunks_made_ < 4 && at_least <= kSmallChunk;
            const size_t bytes = small ? kSmallChunk : kChunk + kHugePage;
            void* memory =
                mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
            if (memory == MAP_FAILED) throw std::bad_alloc();
            ++chunks_made_;
            at_ = static_cast<char*>(memory);
            left_ = bytes;
            if (small) return;
            const size_t skipped = (kHugePage - reinterpret_cast<uintptr_t>(at_) % kHugePage) % kHugePage;
            at_ += skipped;
            left_ = kChunk;
#ifdef MADV_HUGEPAGE
            (void)madvise(at_, left_, MADV_HUGEPAGE);
#endif
        }

        ForkSafeMutex mutex_{ForkSafeMutex::kMemory};
        std::array<char*, kClasses> free_{};
        char* at_ = nullptr;
        size_t left_ = 0;
        size_t chunks_made_ = 0;
    };

    size_t size_class_ = 0;
    char* data_ = nullptr;
};

}  // namespace bavt
