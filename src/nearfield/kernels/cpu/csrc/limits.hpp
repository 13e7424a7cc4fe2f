// Loops that do nothing but read memory, or nothing but multiply, on all threads: the machine's limits.
#pragma once

#include <string>

#include "runtime.hpp"

namespace nearfield {

// Reads all of `bytes` once, each thread one stream of its own, and returns the sum of its words.
std::uint64_t read_all(Runtime& runtime, const std::uint8_t* data, std::size_t bytes);

// Runs the multiply-adds of `kind` ("int8", "bf16", "fp32") on each thread and returns their number,
// 0 where the instruction set has none.
double multiply_all(Runtime& runtime, const std::string& kind, std::int64_t rounds);

}  // namespace nearfield
