// A Python bytes object that is filled in place.
#pragma once

#include <pybind11/pybind11.h>

#include "memory/reservation.h"

namespace bavt::py_bytes {

class Buffer {
   public:
    // A big one is fresh memory, and faulting it in page by page would take longer than filling it.
    explicit Buffer(size_t size) : bytes_(PyBytes_FromStringAndSize(nullptr, static_cast<Py_ssize_t>(size))) {
        if (bytes_ == nullptr) throw pybind11::error_already_set();
        if (size >= kBig) Reservation::prefer_huge_pages(data(), data() + size);
    }
    ~Buffer() { Py_XDECREF(bytes_); }
    Buffer(const Buffer&) = delete;
    Buffer& operator=(const Buffer&) = delete;

    char* data() { return PyBytes_AS_STRING(bytes_); }
    size_t size() const { return static_cast<size_t>(PyBytes_GET_SIZE(bytes_)); }

    // The object, of the first `size` bytes.
    pybind11::bytes take(size_t size) {
        if (size != this->size() && _PyBytes_Resize(&bytes_, static_cast<Py_ssize_t>(size)) != 0) {
            throw pybind11::error_already_set();
        }
        return take();
    }
    pybind11::bytes take() { return pybind11::reinterpret_steal<pybind11::bytes>(std::exchange(bytes_, nullptr)); }

   private:
    static constexpr size_t kBig = 2 * Reservation::kHugePage;

    PyObject* bytes_;
};

}  // namespace bavt::py_bytes
