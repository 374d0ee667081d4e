// Functions of the module that are called as Python calls its own (METH_FASTCALL): pybind11's way into a function takes
// longer than what some of ours do in it. Arguments come by place alone.
#pragma once

#include <pybind11/pybind11.h>

namespace bavt::py_fast {

namespace py = pybind11;

// What a function is called with, by place; None for what is left out.
class Arguments {
   public:
    Arguments(PyObject* const* given, Py_ssize_t size) : given_(given), size_(static_cast<size_t>(size)) {}
    size_t size() const { return size_; }
    py::handle operator[](size_t i) const { return i < size_ ? given_[i] : Py_None; }
    py::object kept(size_t i) const { return py::reinterpret_borrow<py::object>((*this)[i]); }

   private:
    PyObject* const* given_;
    size_t size_;
};

// What a catch block has caught becomes what Python raises.
void restore_thrown();

template <py::object (*function)(const Arguments&)>
PyObject* entered(PyObject*, PyObject* const* given, Py_ssize_t size) {
    try {
        return function(Arguments(given, size)).release().ptr();
    } catch (...) {
        restore_thrown();
    }
    return nullptr;
}

template <py::object (*function)(const Arguments&)>
PyMethodDef method(const char* name, const char* signature) {
    return {name, reinterpret_cast<PyCFunction>(reinterpret_cast<void*>(&entered<function>)), METH_FASTCALL, signature};
}

// `methods` end with an empty one, and stay where they are.
void add_functions(py::module_& m, PyMethodDef* methods);

}  // namespace bavt::py_fast
