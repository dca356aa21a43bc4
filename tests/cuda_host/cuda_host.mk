# The CUDA kernels and backend built for the host on the stand-in of this folder, and what tests
# them: tests/unit/test_cuda_*.c. The including Makefile sets BUILD, CC, ALL_CFLAGS, OPT, SANFLAGS.

CUDA_HOST_SRCS := $(wildcard kernels/cuda/*.cu kernels/cuda/*.c tests/cuda_host/*.cu \
	tests/cuda_host/*.c)
CUDA_HOST_OBJS := $(addprefix $(BUILD)/obj/cuda_host/,$(addsuffix .o,$(basename $(CUDA_HOST_SRCS))))
LIB_CUDA_HOST  := $(BUILD)/libtv3s_cuda_host.a

# C++ gets OPT, WARN and the sanitizers as C does. Red zones for __shared__ variables: they lie in a
# section of their own.
CUDA_HOST_CXXFLAGS = -std=c++17 -D_GNU_SOURCE $(OPT) -ffp-contract=off -Wall -Wextra -Wshadow \
	-Wno-unknown-pragmas $(SANFLAGS) $(if $(findstring address,$(SANITIZE)),-fsanitize-sections=cuda_shared) \
	-Itests/cuda_host -I. -MMD -MP $(CXXFLAGS)

$(BUILD)/obj/cuda_host/%.o: %.cu $(BUILD)/flags
	@mkdir -p $(@D)
	@echo '  CXX $<'
	$(Q)$(CXX) $(CUDA_HOST_CXXFLAGS) $(if $(filter kernels/%,$<),$(COVERAGE)) -x c++ -c $< -o $@
$(BUILD)/obj/cuda_host/%.o: %.c $(BUILD)/flags
	@mkdir -p $(@D)
	@echo '  CC $< (on the stand-in for CUDA)'
	$(Q)$(CC) -Itests/cuda_host $(ALL_CFLAGS) $(if $(filter kernels/%,$<),$(COVERAGE)) -c $< -o $@

$(LIB_CUDA_HOST): $(CUDA_HOST_OBJS)
	$(archive)

# The archive with the CUDA backend comes first, and the engine's has one that says no.
CUDA_HOST_FIRST := -Wl,-u,cuda_backend_open,-u,device_memory_open

$(BUILD)/tests/test_cuda_%: $(BUILD)/obj/tests/unit/test_cuda_%.o $(LIB_CUDA_HOST) $(LIB_PROTO) \
		$(LIB_ENGINE)
	@mkdir -p $(@D)
	@echo '  LD $@'
	$(Q)$(CXX) $(OPENMP) $(SANFLAGS) $(COVERAGE) $(LDFLAGS) -o $@ $(filter %.o,$^) \
	    $(CUDA_HOST_FIRST) $(filter %.a,$^) -lcmocka $(ORACLE) $(PROTO_LIBS) $(ENGINE_LIBS)
$(BUILD)/tests/test_cuda_nv12: ORACLE = -lswscale
$(BUILD)/obj/tests/unit/test_cuda_%.o: CPPFLAGS += -Itests/cuda_host

# Whether every operation does at a real model's shapes what the CPU's does: op_profile --check.
$(BUILD)/cuda_host_profile: $(patsubst %,$(BUILD)/obj/tests/bench/%.o,op_profile op_wrap op_trace) \
		$(BUILD)/obj/cuda_host/tests/bench/op_clock_cuda.o $(BUILD)/obj/tools/options.o $(LIB_CUDA_HOST) $(LIB_ENGINE)
	@echo '  LD $@'
	$(Q)$(CXX) $(OPENMP) $(SANFLAGS) $(COVERAGE) $(LDFLAGS) -o $@ $(filter %.o,$^) \
	    $(CUDA_HOST_FIRST) $(filter %.a,$^) $(ENGINE_LIBS)

include tests/cuda_host/driver/driver.mk

# The daemon with the stand-in for its GPU; tests/cuda_host/daemon/fault.c fails it.
CUDA_HOST_DAEMON := $(BUILD)/cuda_host_tv3sd
$(CUDA_HOST_DAEMON): $(BUILD)/obj/server/main.o $(BUILD)/obj/cuda_host/tests/cuda_host/daemon/fault.o \
		$(LIB_CUDA_HOST) $(LIB_SERVER) $(LIB_MEDIA) $(LIB_PROTO) $(LIB_ENGINE) | $(CUDA_HOST_DRIVER)
	@echo '  LD $@'
	$(Q)$(CXX) $(OPENMP) $(SANFLAGS) $(COVERAGE) $(LDFLAGS) $(CUDA_HOST_RPATH) -o $@ $(filter %.o,$^) \
	    $(CUDA_HOST_FIRST) $(filter %.a,$^) $(SERVER_LIBS) $(MEDIA_LIBS) $(PROTO_LIBS) $(ENGINE_LIBS)

# The tool on the same.
CUDA_HOST_TOOL := $(BUILD)/cuda_host_tv3s
$(CUDA_HOST_TOOL): $(call to_obj,$(TOOL_SRCS)) $(BUILD)/obj/cuda_host/tests/cuda_host/daemon/fault.o \
		$(LIB_CUDA_HOST) $(LIB_MEDIA) $(LIB_PROTO) $(LIB_ENGINE) | $(CUDA_HOST_DRIVER)
	@echo '  LD $@'
	$(Q)$(CXX) $(OPENMP) $(SANFLAGS) $(COVERAGE) $(LDFLAGS) $(CUDA_HOST_RPATH) -o $@ $(filter %.o,$^) \
	    $(CUDA_HOST_FIRST) $(filter %.a,$^) $(MEDIA_LIBS) $(PROTO_LIBS) $(ENGINE_LIBS)

CUDA_HOST_TESTS = $(filter $(BUILD)/tests/test_cuda_%,$(TESTS))

# The kernels' objects alone count, and with -O1: the rest of it would only take longer. A header
# counts as the best of the objects that include it.
.PHONY: cuda-coverage cuda-coverage-run
cuda-coverage: export OMP_WAIT_POLICY ?= passive
cuda-coverage: ## lines of the CUDA kernels that the tests without a GPU run
	+@$(MAKE) --no-print-directory -j$(NPROC) cuda-coverage-run BUILD=$(BUILD)/coverage \
	    COVERAGE=--coverage OPT='-O1 -g'
cuda-coverage-run: $(CUDA_HOST_TESTS)
	@find $(BUILD) -name '*.gcda' -delete
	+@$(MAKE) --no-print-directory $(CUDA_HOST_TESTS:=.run)
	@gcov -n $(BUILD)/obj/cuda_host/kernels/cuda/*.gcno 2>/dev/null | awk -F "[':%]" \
	    '/^File / { name = $$2 ~ /^kernels\/cuda\// ? $$2 : "" } \
	    /^Lines executed/ && name { split($$0, n, " of "); \
	        if ($$2 >= part[name] + 0) { part[name] = $$2; lines[name] = n[2] } } \
	    END { for (name in part) { hit += part[name] * lines[name]; all += lines[name]; \
	            printf "%6.2f %% of %4d lines  %s\n", part[name], lines[name], name | "sort -k 6"; } \
	        close("sort -k 6"); printf "%6.2f %% of %4d lines in all\n", hit / all, all }'

-include $(CUDA_HOST_OBJS:.o=.d)
