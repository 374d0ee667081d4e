#include "python/fast_call.h"

#include <exception>
#include <utility>

namespace bavt::py_fast {
namespace {

std::exception_ptr thrown;
PyObject* raise_thrown;  // has pybind11 make a Python exception of it

}  // namespace

void restore_thrown() {
    try {
        throw;
    } catch (py::error_already_set& error) {
        error.restore();
    } catch (...) {
        thrown = std::current_exception();
        Py_XDECREF(PyObject_CallNoArgs(raise_thrown));
    }
}

void add_functions(py::module_& m, PyMethodDef* methods) {
    if (raise_thrown == nullptr) {
        raise_thrown = py::cpp_function([] { std::rethrow_exception(std::exchange(thrown, nullptr)); }).release().ptr();
    }
    if (PyModule_AddFunctions(m.ptr(), methods) != 0) throw py::error_already_set();
}

}  // namespace bavt::py_fast
