/*
 * The two per-channel recurrences of a mixer and their gradients, for training on CPUs:
 *
 *     b_t = SiLU(bias + sum_j taps[j] a_{t-K+1+j})                         causal convolution, tail carried
 *     S_t = exp(s A) . S_{t-1} + s b_t B_t^T,  s = softplus(dt_t)          selective scan
 *     y_t = (S_t C_t + D b_t) SiLU(z_t)
 *
 * a, b, dt, z, y are (W, L, D), B and C (W, L, N), A (D, N), S (W, D, N). Windows run in parallel; within one, V
 * channels are taken at a time, first across channels for softplus and SiLU, then each channel from its first
 * token to its last with its N states in one vector register. Nothing is kept for the backward pass: it scans
 * the channel again into a buffer of L x N states (in cache for any window we train on) and walks back through
 * it. Sums over channels go to the window's own slice, so no two threads write the same place; sums over windows
 * (A, D, taps) are left to the caller.
 *
 *     cc -O3 -march=native -ffast-math -fopenmp -shared -fPIC scan.c -o scan.so -lm
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define N 16
#define V 16
#define K 4

/* exp for x <= 88, relative error 2e-7, without a call so that loops over it stay in vector registers */
static inline float fexp(float x)
{
    union { float f; int i; } u;
    float r = (x < -87 ? -87 : x) * 1.44269504f, k = __builtin_rintf(r), f = r - k;
    float p = 1.5403530e-4f;
    p = p * f + 1.3333558e-3f;
    p = p * f + 9.6181291e-3f;
    p = p * f + 5.5504109e-2f;
    p = p * f + 2.4022651e-1f;
    p = p * f + 6.9314718e-1f;
    p = p * f + 1;
    u.i = ((int)k + 127) << 23;
    return p * u.f;
}
static inline float sigmoid(float x) { return 1 / (1 + fexp(x < -80 ? 80 : -x)); }
static inline float softplus(float x) { return (x > 0 ? x : 0) + log1pf(fexp(x > 0 ? -x : x)); }

void conv_forward(long W, long L, long D, const float *a, const float *tail, const float *taps, const float *bias,
                  float *b)
{
#pragma omp parallel for
    for (long w = 0; w < W; w++)
        for (long t = 0; t < L; t++) {
            float *out = b + (w * L + t) * D;
            memcpy(out, bias, D * sizeof *out);
            for (long j = 0; j < K; j++) {
                long u = t - K + 1 + j;
                const float *in = u < 0 ? tail + (w * (K - 1) + u + K - 1) * D : a + (w * L + u) * D;
                for (long d = 0; d < D; d++)
                    out[d] += taps[j * D + d] * in[d];
            }
            for (long d = 0; d < D; d++)
                out[d] *= sigmoid(out[d]);
        }
}

/* gtaps (W, K, D) and gbias (W, D); the gradient of the tail is not made (clips start from zero). */
void conv_backward(long W, long L, long D, const float *a, const float *tail, const float *taps, const float *bias,
                   const float *gb, float *ga, float *gtaps, float *gbias)
{
#pragma omp parallel
    {
        float *g = malloc(D * sizeof *g);
#pragma omp for
        for (long w = 0; w < W; w++) {
            memset(ga + w * L * D, 0, (size_t)L * D * sizeof *ga);
            memset(gtaps + w * K * D, 0, (size_t)K * D * sizeof *gtaps);
            memset(gbias + w * D, 0, (size_t)D * sizeof *gbias);
            for (long t = 0; t < L; t++) {
                memcpy(g, bias, D * sizeof *g);
                for (long j = 0; j < K; j++) {
                    long u = t - K + 1 + j;
                    const float *in = u < 0 ? tail + (w * (K - 1) + u + K - 1) * D : a + (w * L + u) * D;
                    for (long d = 0; d < D; d++)
                        g[d] += taps[j * D + d] * in[d];
                }
                for (long d = 0; d < D; d++) {
                    float sg = sigmoid(g[d]);
                    g[d] = gb[(w * L + t) * D + d] * sg * (1 + g[d] * (1 - sg));
                    gbias[w * D + d] += g[d];
                }
                for (long j = 0; j < K; j++) {
                    long u = t - K + 1 + j;
                    const float *in = u < 0 ? tail + (w * (K - 1) + u + K - 1) * D : a + (w * L + u) * D;
                    for (long d = 0; d < D; d++)
                        gtaps[(w * K + j) * D + d] += g[d] * in[d];
                    if (u >= 0)
                        for (long d = 0; d < D; d++)
                            ga[(w * L + u) * D + d] += g[d] * taps[j * D + d];
                }
            }
        }
        free(g);
    }
}

void scan_forward(long W, long L, long D, const float *b, const float *dt, const float *A, const float *B,
                  const float *C, const float *skip, const float *z, const float *S0, float *y, float *S1)
{
#pragma omp parallel
    {
        float *step = malloc((size_t)2 * L * V * sizeof *step), *sum = step + L * V;
#pragma omp for
        for (long w = 0; w < W; w++)
            for (long d0 = 0; d0 < D; d0 += V) {
                for (long t = 0; t < L; t++)
                    for (long v = 0; v < V; v++)
                        step[t * V + v] = softplus(dt[(w * L + t) * D + d0 + v]);
                for (long v = 0; v < V; v++) {
                    long d = d0 + v;
                    float S[N], a[N];
                    memcpy(S, S0 + (w * D + d) * N, sizeof S);
                    memcpy(a, A + d * N, sizeof a);
                    for (long t = 0; t < L; t++) {
                        const float *Bt = B + (w * L + t) * N, *Ct = C + (w * L + t) * N;
                        float s = step[t * V + v], in = s * b[(w * L + t) * D + d], q = 0;
                        for (int n = 0; n < N; n++) {
                            S[n] = fexp(s * a[n]) * S[n] + in * Bt[n];
                            q += S[n] * Ct[n];
                        }
                        sum[t * V + v] = q;
                    }
                    memcpy(S1 + (w * D + d) * N, S, sizeof S);
                }
                for (long t = 0; t < L; t++)
                    for (long v = 0; v < V; v++) {
                        long i = (w * L + t) * D + d0 + v;
                        y[i] = (sum[t * V + v] + skip[d0 + v] * b[i]) * z[i] * sigmoid(z[i]);
                    }
            }
        free(step);
    }
}

/* gS holds dLoss/dS1 on entry and dLoss/dS0 on return; gA is (W, D, N) and gskip (W, D). */
void scan_backward(long W, long L, long D, const float *b, const float *dt, const float *A, const float *B,
                   const float *C, const float *skip, const float *z, const float *S0, const float *gy,
                   float *gb, float *gdt, float *gA, float *gB, float *gC, float *gskip, float *gz, float *gS)
{
#pragma omp parallel
    {
        float *states = malloc((size_t)((2 * L + 1) * N + 2 * L * V) * sizeof *states);
        float *decays = states + (L + 1) * N, *step = decays + L * N, *sum = step + L * V;
#pragma omp for
        for (long w = 0; w < W; w++) {
            memset(gB + w * L * N, 0, (size_t)L * N * sizeof *gB);
            memset(gC + w * L * N, 0, (size_t)L * N * sizeof *gC);
            memset(gskip + w * D, 0, (size_t)D * sizeof *gskip);
            for (long d0 = 0; d0 < D; d0 += V) {
                for (long t = 0; t < L; t++)
                    for (long v = 0; v < V; v++) {
                        long i = (w * L + t) * D + d0 + v;
                        step[t * V + v] = softplus(dt[i]);
                        gz[i] = gy[i] * z[i] * sigmoid(z[i]); /* for now: of what SiLU(z) multiplies */
                    }
                for (long v = 0; v < V; v++) {
                    long d = d0 + v;
                    float a[N], g[N], ga[N] = {0};
                    memcpy(a, A + d * N, sizeof a);
                    memcpy(g, gS + (w * D + d) * N, sizeof g);
                    memcpy(states, S0 + (w * D + d) * N, sizeof a);
                    for (long t = 0; t < L; t++) {
                        const float *Bt = B + (w * L + t) * N;
                        float s = step[t * V + v], in = s * b[(w * L + t) * D + d];
                        float *S = states + t * N, *e = decays + t * N;
                        for (int n = 0; n < N; n++) {
                            e[n] = fexp(s * a[n]);
                            S[N + n] = e[n] * S[n] + in * Bt[n];
                        }
                    }
                    for (long t = L - 1; t >= 0; t--) {
                        long i = (w * L + t) * D + d, j = (w * L + t) * N;
                        const float *S = states + t * N, *e = decays + t * N;
                        float s = step[t * V + v], sb = s * b[i], gp = gz[i], q = 0, gin = 0, gs = 0;
                        for (int n = 0; n < N; n++) {
                            q += S[N + n] * C[j + n];
                            gC[j + n] += gp * S[N + n];
                            g[n] += gp * C[j + n];
                            gin += g[n] * B[j + n];
                            gB[j + n] += g[n] * sb;
                            g[n] *= e[n];
                            float gx = g[n] * S[n]; /* of the exponent s a */
                            ga[n] += gx * s;
                            gs += gx * a[n];
                        }
                        sum[t * V + v] = q;
                        gb[i] = gp * skip[d] + gin * s;
                        gdt[i] = gs + gin * b[i];
                    }
                    memcpy(gA + (w * D + d) * N, ga, sizeof ga);
                    memcpy(gS + (w * D + d) * N, g, sizeof g);
                }
                for (long t = 0; t < L; t++)
                    for (long v = 0; v < V; v++) {
                        long i = (w * L + t) * D + d0 + v;
                        float sg = sigmoid(z[i]);
                        gskip[w * D + d0 + v] += gz[i] * b[i];
                        gz[i] = gy[i] * (sum[t * V + v] + skip[d0 + v] * b[i]) * sg * (1 + z[i] * (1 - sg));
                        gdt[i] *= sigmoid(dt[i]);
                    }
            }
        }
        free(states);
    }
}
