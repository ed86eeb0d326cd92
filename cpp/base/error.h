// Errors: bad input is InputError (ValueError in Python), a failing system call is SystemError (OSError).
#pragma once

#include <sstream>
#include <stdexcept>
#include <string>
#include <string_view>

namespace lora_edge {

struct InputError : std::invalid_argument {
  using std::invalid_argument::invalid_argument;
};

struct SystemError : std::runtime_error {
  SystemError(int error, const std::string& what, std::string file)
      : std::runtime_error(what), code(error), path(std::move(file)) {}
  int code;  // errno
  std::string path;
};

// Raised between layers when the caller asked to stop; the sequences are as they were before the call.
struct Cancelled : std::runtime_error {
  Cancelled() : std::runtime_error("cancelled") {}
};

template <class... Parts>
std::string concat(const Parts&... parts) {
  std::ostringstream out;
  (out << ... << parts);
  return out.str();
}

template <class... Parts>
[[noreturn]] void fail_input(const Parts&... parts) {
  throw InputError(concat(parts...));
}

// Text of a file for an error message: at most 80 bytes of it.
inline std::string clip(std::string_view text) {
  return text.size() <= 80 ? std::string(text) : concat(text.substr(0, 80), "...");
}

}  // namespace lora_edge
