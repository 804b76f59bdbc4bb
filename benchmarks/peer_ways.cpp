// What llama.cpp's server does per row around its sampler chain, for bench_kernels.py: candidate structs filled from the
// logits, and its way to logprobs (all tokens as structs, the n best sorted, softmax over all). Written for timing only.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

struct Candidate {
    int32_t id;
    float logit;
    float p;
};

extern "C" void fill(const float* row, int32_t n, Candidate* out) {
    for (int32_t i = 0; i < n; i++) out[i] = Candidate{i, row[i], 0.0f};
}

extern "C" float logprobs(const float* row, int32_t n, int32_t n_best) {
    std::vector<Candidate> all(n);
    fill(row, n, all.data());
    std::partial_sort(all.begin(), all.begin() + n_best, all.end(),
                      [](const Candidate& a, const Candidate& b) { return a.logit > b.logit; });
    const float top = all[0].logit;
    float total = 0;
    for (Candidate& candidate : all) total += candidate.p = expf(candidate.logit - top);
    for (Candidate& candidate : all) candidate.p /= total;
    return all[0].p;
}
