// A growing array whose elements never move: address space for all of it is reserved once, and the operating system
// gives it memory page by page as it is touched. Pointers and numpy views into it stay good while it lives.
#pragma once

#include <sys/mman.h>

#include <cstddef>
#include <new>
#include <type_traits>
#include <utility>

namespace bavt {

template <typename T>
class Column {
    static_assert(std::is_trivially_copyable_v<T>);

   public:
    explicit Column(size_t capacity) : bytes_(capacity * sizeof(T)) {
        void* memory = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (memory == MAP_FAILED) throw std::bad_alloc();
        data_ = static_cast<T*>(memory);
    }
    ~Column() {
        if (data_ != nullptr) munmap(data_, bytes_);
    }
    Column(const Column&) = delete;
    Column& operator=(const Column&) = delete;
    Column(Column&& other) noexcept : bytes_(other.bytes_), data_(std::exchange(other.data_, nullptr)) {}
    Column& operator=(Column&&) = delete;

    T& operator[](size_t i) { return data_[i]; }
    const T& operator[](size_t i) const { return data_[i]; }
    const T* data() const { return data_; }

   private:
    size_t bytes_;
    T* data_ = nullptr;
};

}  // namespace bavt
