# Kernels compiled once per instruction set. The including Makefile sets BUILD, SIMD, CC,
# ALL_CFLAGS; it archives KERNEL_SIMD_OBJS and compiles no file of KERNEL_SIMD_SRCS itself.
# table.c comes first: it names the others.

KERNEL_SIMD_NAMES := table preprocess im2col norm dwconv softmax fuse scan_conv scan labels convert
KERNEL_SIMD_SRCS  := $(KERNEL_SIMD_NAMES:%=kernels/cpu/%.c)
KERNEL_SIMD_ISAS  := baseline

# -ffp-contract=off: multiply-adds are fused where the source says so, and nowhere else.
KERNEL_CFLAGS          := -O3 -ffp-contract=off -fno-math-errno -fno-trapping-math
KERNEL_CFLAGS_baseline :=
KERNEL_CFLAGS_avx2     := -mavx2 -mfma
KERNEL_CFLAGS_avx512   := -mavx512f -mavx512bw -mavx512dq -mavx512vl -mfma \
	-mprefer-vector-width=512
KERNEL_CFLAGS_avx512_bf16 := $(KERNEL_CFLAGS_avx512) -mavx512bf16

ifneq ($(SIMD),0)
ifneq ($(findstring x86_64,$(shell $(CC) -dumpmachine)),)
KERNEL_SIMD_ISAS += avx2 avx512 avx512_bf16
$(BUILD)/obj/kernels/cpu/dispatch.o: private CPPFLAGS += -DTV3S_SIMD_X86
endif
endif

KERNEL_SIMD_OBJS := $(foreach isa,$(KERNEL_SIMD_ISAS),\
	$(KERNEL_SIMD_NAMES:%=$(BUILD)/obj/kernels/cpu/%.$(isa).o))

define kernel_rule
$(BUILD)/obj/kernels/cpu/%.$(1).o: kernels/cpu/%.c $(BUILD)/flags
	@mkdir -p $$(@D)
	@echo '  CC $$< ($(1))'
	$$(Q)$$(CC) $$(ALL_CFLAGS) $$(KERNEL_CFLAGS) $$(KERNEL_CFLAGS_$(1)) -DISA=$(1) -c $$< -o $$@
endef
$(foreach isa,$(KERNEL_SIMD_ISAS),$(eval $(call kernel_rule,$(isa))))

# make bench-kernels, or build/kernel_bench [isa [repetitions]]
$(BUILD)/kernel_bench: tests/bench/kernel_bench.c $(KERNEL_SIMD_OBJS) \
		$(BUILD)/obj/kernels/cpu/dispatch.o
	@echo '  LD $@'
	$(Q)$(CC) $(ALL_CFLAGS) $(LDFLAGS) -o $@ $^ -lm
