// Modules: PTX is read for its claims, and the kernels it names are those compiled into the stand-in.
#pragma once

#include <list>
#include <map>
#include <string>

#include "machine.h"
#include "registry.h"

namespace lora_edge::standin {

struct Function {
  Kernel* kernel;
  int device;
  int ptx;               // version times ten
  size_t static_shared;  // bytes
  size_t dynamic_limit;  // bytes; cuFuncSetAttribute raises it
};

struct Module {
  int device;
  std::map<std::string, Function> functions;
};

// Failure where the machine's driver or device wouldn't take the text, or where it differs from the kernels here.
Module load_module(const std::string& ptx, const Machine& machine, int device);

}  // namespace lora_edge::standin
