// The Python module fastmunit._C. Loading it registers the kernels of csrc/torch; it offers what it was built with. One
// function needs no library of bindings, which would take longer to compile than most kernels.
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <stdexcept>
#include <string>

#include "cpu/isa.h"

namespace {

#ifdef FASTMUNIT_CUDA_VERSION
constexpr const char* cuda_version = FASTMUNIT_CUDA_VERSION;
constexpr const char* cuda_architectures = FASTMUNIT_CUDA_ARCHITECTURES;
#else
constexpr const char* cuda_version = nullptr;
constexpr const char* cuda_architectures = "";
#endif

// The parts between commas as a list of str, or null with a Python exception.
PyObject* list_of(const std::string& text) {
  PyObject* const list = PyList_New(0);
  for (std::size_t begin = 0; list != nullptr && begin < text.size();) {
    const std::size_t end = text.find(',', begin) == std::string::npos ? text.size() : text.find(',', begin);
    PyObject* const part = PyUnicode_FromStringAndSize(text.data() + begin, static_cast<Py_ssize_t>(end - begin));
    const bool failed = part == nullptr || PyList_Append(list, part) != 0;
    Py_XDECREF(part);
    if (failed) {
      Py_DECREF(list);
      return nullptr;
    }
    begin = end + 1;
  }
  return list;
}

std::string simd_in_use() {
  try {
    return fastmunit::cpu::isa_name(fastmunit::cpu::isa());
  } catch (const std::runtime_error& error) {
    return error.what();
  }
}

PyObject* build_config(PyObject*, PyObject*) {
  // z is a str, or None where it is null; N takes over a reference, and null with its exception.
  return Py_BuildValue("{s:s,s:s,s:z,s:N,s:s,s:s,s:N,s:s}", "torch", FASTMUNIT_TORCH_VERSION, "torch_target",
                       FASTMUNIT_TORCH_TARGET, "cuda", cuda_version, "cuda_architectures", list_of(cuda_architectures),
                       "compiler", FASTMUNIT_COMPILER, "build_type", FASTMUNIT_BUILD_TYPE, "simd",
                       list_of(fastmunit::cpu::isas_built()), "simd_in_use", simd_in_use().c_str());
}

PyMethodDef methods[] = {
    {"build_config", build_config, METH_NOARGS,
     "build_config()\n--\n\n"
     "What the extension was built with, as a dict: torch, torch_target (the oldest torch that it runs with), cuda (None "
     "without it), cuda_architectures, compiler, build_type, simd (the instruction sets compiled in, best first), and "
     "simd_in_use (the one that this process runs)."},
    {nullptr, nullptr, 0, nullptr}};

PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_C", nullptr, -1, methods, nullptr, nullptr, nullptr, nullptr};

}  // namespace

PyMODINIT_FUNC PyInit__C() { return PyModule_Create(&definition); }
