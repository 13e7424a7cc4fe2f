// How dense tiles use 32 registers of 16 sums.
#pragma once

namespace nearfield {
namespace {

struct Sizes {
    static constexpr int kStreams = 2, kBlocks = 3, kPanels = 2;
    static constexpr bool kFew = true;
};

}  // namespace
}  // namespace nearfield
