// The functions of one number that models need, over any Vec. No libm: its bits differ between machines.
#pragma once

#include <cstdint>

namespace nearfield {
namespace {

// e^x, within 2 units in the last place, for x up to 88 (above, e^88); 0 below -87; NaN for NaN.
// Cody and Waite's reduction by multiples of ln 2, then a polynomial of degree 6 (minimax on |r| <= ln 2 / 2,
// coefficients of Cephes' expf).
inline Vec exponential(Vec x) {
    x = least(all(88.0f), x);
    const Vec shift = all(12582912.0f);  // 1.5 * 2^23: adding it rounds to a whole number
    const Vec n = fma(x, all(1.44269504088896341f), shift) - shift;
    const Vec high = fma(n, all(-0.693359375f), x);
    const Vec r = fma(n, all(2.12194440e-4f), high);
    Vec p = all(1.9875691500e-4f);
    p = fma(p, r, all(1.3981999507e-3f));
    p = fma(p, r, all(8.3334519073e-3f));
    p = fma(p, r, all(4.1665795894e-2f));
    p = fma(p, r, all(1.6666665459e-1f));
    p = fma(p, r, all(5.0000001201e-1f));
    p = fma(p, r * r, r) + all(1.0f);
    return scale_unless_less(x, all(-87.0f), p, n);
}

// 2^x, within 4 units in the last place, for x up to 0; 0 below -49; NaN for NaN. A whole number and a fraction, and for
// that a polynomial of degree 5 (minimax on |r| <= 1/2, its first coefficient held at 1, so that 2^0 is 1).
inline Vec power(Vec x) {
    const Vec shift = all(12582912.0f);  // 1.5 * 2^23: adding it rounds to a whole number
    const Vec n = (x + shift) - shift;
    const Vec r = x - n;
    Vec p = all(1.3381302123889327e-3f);
    p = fma(p, r, all(9.66636836528778e-3f));
    p = fma(p, r, all(5.5503811687231064e-2f));
    p = fma(p, r, all(2.402234971523285e-1f));
    p = fma(p, r, all(6.931471824645996e-1f));
    p = fma(p, r, all(1.0f));
    return scale_unless_less(x, all(-49.0f), p, n);
}

// silu(x) = x / (1 + e^-x) (Elfwing et al. 2017).
inline Vec silu(Vec x) { return x / (all(1.0f) + exponential(zeros() - x)); }

}  // namespace
}  // namespace nearfield
