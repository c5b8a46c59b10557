# Holdfast: one Makefile for everything; it never calls itself for a folder.
#
#   make                 both programs, in build/
#   make check           everything that proves them, closed by one line: N passed, N failed, N skipped
#   make help            the other targets
#
# Variables: V=1 shows commands; WERROR=1 makes warnings errors; CC=clang, SANITIZE=address,undefined|thread,
# COVERAGE=1, ANALYZE=1 and PLANTS=1 (faults the torture tests can switch on) each build in a directory of their own; CFLAGS, LDFLAGS, PREFIX, DESTDIR as usual.
#
# Sources are found by wildcard.  A room is common/, agent/<room>/, agent/ itself, or tui/ with all below it; each
# becomes one archive, build/lib/<room>.a.

VERSION := 0.1.0

PREFIX     ?= /usr/local
BINDIR     ?= $(PREFIX)/bin
SBINDIR    ?= $(PREFIX)/sbin
MANDIR     ?= $(PREFIX)/share/man
DOCDIR     ?= $(PREFIX)/share/doc/holdfast
UNITDIR    ?= $(PREFIX)/lib/systemd/system
FUZZ_SECONDS ?= 60
LAB        ?= build/lab

MAKEFLAGS += --no-builtin-rules
.SUFFIXES:
.DELETE_ON_ERROR:
SHELL := /bin/sh

ifeq ($(origin CC),default)
CC := gcc
endif
AR ?= ar
ifdef FUZZING
CC := clang
endif
IS_CLANG := $(findstring clang,$(notdir $(firstword $(CC))))

comma := ,
empty :=
space := $(empty) $(empty)

# ---- Build directory: one for each way of compiling ------------------------------------------------------------

ifdef FUZZING
variant := fuzz
else
variant := $(if $(IS_CLANG),clang)
variant += $(if $(findstring address,$(SANITIZE)),asan,$(if $(findstring thread,$(SANITIZE)),tsan,$(if $(SANITIZE),san)))
variant += $(if $(COVERAGE),coverage) $(if $(ANALYZE),analyze) $(if $(PLANTS),plants)
endif
B := build$(if $(strip $(variant)),/$(subst $(space),-,$(strip $(variant))))

# ---- Flags -----------------------------------------------------------------------------------------------------

WARN := -Wall -Wextra -Wpedantic -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wold-style-definition \
  -Wwrite-strings -Wpointer-arith -Wcast-qual -Wcast-align -Wundef -Wvla -Walloca -Wformat=2 -Wdouble-promotion \
  -Wimplicit-fallthrough -Wredundant-decls -Wdate-time -Wframe-larger-than=16384
WARN_GCC   := -Wduplicated-cond -Wduplicated-branches -Wlogical-op -Wjump-misses-init -Wformat-overflow=2 -Wshift-overflow=2
WARN_CLANG := -Wcomma -Wunreachable-code -Wconditional-uninitialized -Wmissing-variable-declarations -Wthread-safety
WARN += $(if $(IS_CLANG),$(WARN_CLANG),$(WARN_GCC)) $(if $(WERROR),-Werror)

HARDEN := -O2 -U_FORTIFY_SOURCE $(if $(filter -O0,$(CFLAGS)),,-D_FORTIFY_SOURCE=3) -fstack-protector-strong \
  -fstack-clash-protection -fPIE -ffile-prefix-map=$(CURDIR)=.
ifneq ($(filter x86_64 i686 amd64,$(shell uname -m)),)
HARDEN += -fcf-protection=full
endif
ifeq ($(IS_CLANG),)
HARDEN += -ftrivial-auto-var-init=zero
endif
HARDEN_LD := -pie -Wl,-z,relro -Wl,-z,now -Wl,-z,noexecstack

CFLAGS ?= -g
MODE_CFLAGS := $(HARDEN)
MODE_LDFLAGS := $(HARDEN_LD)
ifdef SANITIZE
MODE_CFLAGS := -O1 -fno-omit-frame-pointer -fno-sanitize-recover=all -fsanitize=$(SANITIZE)
MODE_LDFLAGS := -fsanitize=$(SANITIZE)
# gcc guesses lengths wrongly among a sanitizer's own branches, and its red zones fill frames: the plain build checks both.
WARN += $(if $(IS_CLANG),,-Wno-format-truncation -Wno-format-overflow -Wno-frame-larger-than)
endif
ifdef COVERAGE
MODE_CFLAGS := -O0 --coverage -fprofile-update=atomic
MODE_LDFLAGS := --coverage
endif
ifdef ANALYZE
MODE_CFLAGS += -fanalyzer
endif
ifdef FUZZING
MODE_CFLAGS := -O1 -fno-omit-frame-pointer -fno-sanitize-recover=all -fsanitize=fuzzer-no-link,address,undefined \
  -DHOLDFAST_FUZZING
MODE_LDFLAGS := -fsanitize=fuzzer,address,undefined
endif

PKGS := libcurl libcjson openssl libconfig libevent libevent_openssl libevent_pthreads sqlite3 liburing liblz4 libzstd \
  libxxhash ncursesw libssh2

BASE_CFLAGS := $(if $(PLANTS),-DHOLDFAST_PLANTS) -std=gnu11 -D_GNU_SOURCE -DHOLDFAST_VERSION='"$(VERSION)"' -I. -pthread
# What a source may see and how strictly it is read depends on where it lies.
room_flags = $(if $(filter common/% agent/%,$1),-Iagent -Wconversion)$(if $(filter tests/%,$1),-Iagent -Itests -Wno-unused-parameter)
compile = $(CC) $(BASE_CFLAGS) $(WARN) $(call room_flags,$1) $(MODE_CFLAGS) $(PKG_CFLAGS) $(CPPFLAGS) $(CFLAGS)
link = $(CC) -pthread $(MODE_LDFLAGS) -Wl,--as-needed $(CFLAGS) $(LDFLAGS)

Q := $(if $(V),,@)
quiet := $(findstring s,$(filter-out --%,$(firstword $(MAKEFLAGS))))
say = $(if $(V)$(quiet),,@printf '  %-7s %s\n' '$1' '$2')

# ---- Rooms -----------------------------------------------------------------------------------------------------

# Floors from the top, so that archives are searched in a sensible order; a room not named here still counts.
room_order := agent replicator manager stream journal capture http hypervisor nbd lane io common tui
agent_rooms := $(sort $(patsubst agent/%/,%,$(dir $(wildcard agent/*/*.c))))

src_common := $(wildcard common/*.c)
src_agent  := $(filter-out agent/main.c,$(wildcard agent/*.c))
src_tui    := $(filter-out tui/main.c,$(wildcard tui/*.c tui/*/*.c tui/*/*/*.c))
$(foreach r,$(agent_rooms),$(eval src_$r := $$(wildcard agent/$r/*.c)))
rooms := $(foreach r,$(room_order) $(filter-out $(room_order),$(agent_rooms)),$(if $(src_$r),$r))

obj = $(patsubst %.c,$(B)/obj/%.o,$1)
libs_of = $(patsubst %,$(B)/lib/%.a,$(filter $1,$(rooms)))
group = $(if $1,-Wl$(comma)--start-group $1 -Wl$(comma)--end-group)

sources := $(foreach r,$(rooms),$(src_$r)) $(wildcard agent/main.c tui/main.c)
headers := $(wildcard common/*.h agent/*.h agent/*/*.h tui/*.h tui/*/*.h tui/*/*/*.h tests/*.h tests/*/*.h)

programs := $(strip $(if $(wildcard agent/main.c),$(B)/holdfastd) $(if $(wildcard tui/main.c),$(B)/holdfast))

# ---- Tests -----------------------------------------------------------------------------------------------------

# tests/<dir>/*.c: each file is a program of its own, but for helper files, which become an archive for their folder.
# A comment in the first five lines, `room: lane common` between comment marks, names the rooms to link; common comes
# with each.  Without it: all of them.
test_dirs := unit system torture bench fuzz
test_src_unit    := $(wildcard tests/unit/test_*.c)
test_src_fuzz    := $(wildcard tests/fuzz/fuzz_*.c)
test_src_system  := $(filter-out tests/system/helper_%,$(wildcard tests/system/*.c))
test_src_torture := $(filter-out tests/torture/helper_%,$(wildcard tests/torture/*.c))
test_src_bench   := $(filter-out tests/bench/helper_%,$(wildcard tests/bench/*.c))
$(foreach d,$(test_dirs),$(eval helper_src_$d := $$(filter-out $$(test_src_$d),$$(wildcard tests/$d/*.c))))
$(foreach d,$(test_dirs),$(eval test_bin_$d := $$(patsubst %.c,$(B)/%,$$(test_src_$d))))
test_sources := $(foreach d,$(test_dirs),$(test_src_$d) $(helper_src_$d))

room_tags := $(shell awk 'FNR <= 5 && /\/\* *rooms?:/ { s = $$0; sub(/.*rooms?: */, "", s); sub(/ *\*\/.*/, "", s); \
  gsub(/[ ,]+/, ",", s); print FILENAME "=" s }' /dev/null $(test_sources))
tagged_rooms = $(subst $(comma), ,$(patsubst $1=%,%,$(filter $1=%,$(room_tags))))
rooms_for = $(if $(call tagged_rooms,$1),$(call tagged_rooms,$1) common,$(rooms))

system_tests := $(wildcard tests/system/test_*.sh tests/system/test_*.py)
house_tests  := $(wildcard tests/lint/test_*.sh)
torture_short := $(wildcard tests/torture/run-short)

# Sanitizer reports end a program and fail its test, also in a role that a supervisor started; leaks count at every exit
# in order, the roles' too, and nothing is suppressed: what a role holds to its end is within reach of its threads.
# tests/run hands these on, adds log_path, and gives slow builds more time.
export ASAN_OPTIONS  ?= abort_on_error=1:detect_leaks=1:strict_string_checks=1:detect_stack_use_after_return=1
export UBSAN_OPTIONS ?= halt_on_error=1:abort_on_error=1:print_stacktrace=1
export TSAN_OPTIONS  ?= halt_on_error=1:second_deadlock_stack=1
run = tests/run --build $(CURDIR)/$(B) $(if $(SANITIZE)$(COVERAGE),--slow 4) $(RUNFLAGS)
run_files = $(if $(strip $1),$(run) $1,echo 0 passed, 0 failed, 0 skipped)
quote = '$(subst ','\'',$1)'
submake = $(MAKE) --no-print-directory -s WERROR=$(WERROR) CC=$(call quote,$(CC)) CFLAGS=$(call quote,$(CFLAGS)) \
  SANITIZE=$(SANITIZE) COVERAGE=$(COVERAGE)
step = --step $1 $(call quote,$(submake) $1)

# ---- Targets ---------------------------------------------------------------------------------------------------

.PHONY: all deps demo lab lab-down check check-unit check-system torture fuzz fuzz-programs fuzz-targets bench screens \
  format-check lint cppcheck docs seam-check tidy analyze analyze-objects hdr-check coverage dist install install-data test-programs clean help FORCE

all: $(programs) $(if $(programs),,$(foreach r,$(rooms),$(B)/lib/$r.a))

help:
	@echo 'all             build/holdfastd and build/holdfast'
	@echo 'deps            install what is missing (Debian 12, mk/packages)'
	@echo 'demo            two sites, a database, a mistake, and the way back'
	@echo 'lab, lab-down   start and stop two sites on loopback: LAB=directory'
	@echo 'check           everything below that ends by itself, through one runner'
	@echo 'check-unit      unit tests; check-system: tests with real programs'
	@echo 'hdr-check lint seam-check format-check   how the source must look'
	@echo 'torture fuzz    faults and hostile bytes for longer: FUZZ_SECONDS=n'
	@echo 'bench           figures beside peers'
	@echo 'screens docs    regenerate the golden screens, docs/errors.md'
	@echo 'tidy analyze    clang-tidy and gcc -fanalyzer: FILES="a.c b.c" narrows tidy'
	@echo 'coverage        unit and system tests with line coverage in build/coverage/html'
	@echo 'dist install clean; install-data: install without the programs'

# Before the first compile, on a machine that lacks them, the packages needed to compile are installed; make reads
# itself again once build/deps.mk is there.
ifneq ($(filter-out clean help deps lint cppcheck docs format-check dist install-data lab-down,$(or $(MAKECMDGOALS),all)),)
-include build/deps.mk
endif
build/deps.mk: mk/packages mk/deps.sh Makefile
	@mk/deps.sh build
	@mkdir -p build
	@{ printf 'PKG_CFLAGS := %s\n' "$$(pkg-config --cflags-only-I $(PKGS))" && \
	   printf 'PKG_LIBS := %s\n' "$$(pkg-config --libs $(PKGS))" && \
	   printf 'CMOCKA_LIBS := %s\n' "$$(pkg-config --libs cmocka)"; } >$@.$$$$ && mv $@.$$$$ $@

# Without that kernel, the test that starts guests says what is missing.
deps:
	@mk/deps.sh all
	@mk/guest-kernel build/guest-kernel || :

# A change of flags rebuilds; WERROR alone does not.
flags_now := $(strip $(CC) $(BASE_CFLAGS) $(filter-out -Werror,$(WARN)) $(MODE_CFLAGS) $(CPPFLAGS) $(CFLAGS))
$(B)/.flags: FORCE
	@mkdir -p $(@D)
	@printf '%s\n' $(call quote,$(flags_now)) | cmp -s - $@ || printf '%s\n' $(call quote,$(flags_now)) >$@

# Objects and archives appear complete or not at all, since two makes may be at work in one tree.
$(B)/obj/%.o: %.c $(B)/.flags
	$(call say,CC,$<)
	@mkdir -p $(@D)
	$(Q)$(call compile,$<) -MMD -MP -MT $@ -MF $@.$$$$.d -c -o $@.$$$$ $< && \
	  mv $@.$$$$.d $(@:.o=.d) && mv $@.$$$$ $@ || { rm -f $@.$$$$ $@.$$$$.d; exit 1; }

# The list beside an archive remakes it when a source has gone.
define archive_rule
$(B)/lib/$1.list: FORCE
	@mkdir -p $$(@D)
	@echo $2 | cmp -s - $$@ || echo $2 >$$@
$(B)/lib/$1.a: $(call obj,$2) $(B)/lib/$1.list
	$$(call say,AR,$$@)
	$$(Q)rm -f $$@.$$$$$$$$ && $(AR) rcsD $$@.$$$$$$$$ $$(filter %.o,$$^) && mv $$@.$$$$$$$$ $$@
endef
$(foreach r,$(rooms),$(eval $(call archive_rule,$r,$(src_$r))))
$(foreach d,$(test_dirs),$(if $(helper_src_$d),$(eval $(call archive_rule,tests-$d,$(helper_src_$d)))))

link_to = $(link) -o $@.$$$$ $(filter %.o,$^) $(call group,$(filter %.a,$^)) $1 $(PKG_LIBS) -lm && mv $@.$$$$ $@

# The roles are entered through weak references, which pull nothing out of an archive by themselves.
$(B)/holdfastd: $(call obj,agent/main.c) $(call libs_of,$(filter-out tui,$(rooms)))
	$(call say,LD,$@)
	$(Q)$(call link_to,-Wl$(comma)-u$(comma)manager_role_main -Wl$(comma)-u$(comma)replicator_role_main)

$(B)/holdfast: $(call obj,tui/main.c) $(call libs_of,tui common)
	$(call say,LD,$@)
	$(Q)$(call link_to)

# $1 source, $2 folder of tests
define test_rule
$(B)/$(1:.c=): $(call obj,$1) $(if $(helper_src_$2),$(B)/lib/tests-$2.a) $(call libs_of,$(call rooms_for,$1))
	$$(call say,LD,$$@)
	@mkdir -p $$(@D)
	$$(Q)$$(call link_to,$(if $(filter unit,$2),$$(CMOCKA_LIBS)))
endef
$(foreach d,$(filter-out fuzz,$(test_dirs)),$(foreach s,$(test_src_$d),$(eval $(call test_rule,$s,$d))))
ifdef FUZZING
$(foreach s,$(test_src_fuzz),$(eval $(call test_rule,$s,fuzz)))
endif

-include $(patsubst %.o,%.d,$(call obj,$(sources) $(test_sources)))

test-programs: $(test_bin_unit) $(test_bin_system) $(test_bin_torture) $(test_bin_bench)

# ---- Checks ----------------------------------------------------------------------------------------------------

check-unit: $(test_bin_unit)
	$(Q)$(call run_files,$^)

check-system: deps all $(test_bin_system)
	$(Q)$(call run_files,$(system_tests))

fuzz_bin := $(patsubst %.c,build/fuzz/%,$(test_src_fuzz))
fuzz_steps = $(foreach f,$(fuzz_bin),--step fuzz:$(patsubst fuzz_%,%,$(notdir $f)) 'tests/fuzz/run $f $1')

# Steps that only read the source run once, not again for each way of compiling it.
source_steps = $(call step,lint) $(call step,format-check) $(house_tests)

check: deps all test-programs $(if $(SANITIZE)$(COVERAGE),,fuzz-programs)
	$(Q)$(run) $(call step,hdr-check) $(call step,seam-check) \
	  $(if $(SANITIZE)$(COVERAGE),,$(source_steps)) $(test_bin_unit) $(if $(SANITIZE)$(COVERAGE),,$(call fuzz_steps,10)) \
	  $(system_tests) $(torture_short)

fuzz-programs: | deps
	$(Q)$(if $(test_src_fuzz),$(MAKE) --no-print-directory FUZZING=1 WERROR=$(WERROR) fuzz-targets,:)
fuzz-targets: $(fuzz_bin)
	@:

fuzz: fuzz-programs
	$(Q)$(if $(test_src_fuzz),$(run) -t $$(($(FUZZ_SECONDS) * 2 + 120)) $(call fuzz_steps,$(FUZZ_SECONDS)),:)

torture: deps all $(test_bin_torture)
	$(Q)BUILD=$(CURDIR)/$(B) tests/torture/run

bench: deps all $(test_bin_bench)
	$(Q)BUILD=$(CURDIR)/$(B) tests/bench/run

# What of the documents is made from the source.
docs:
	$(Q)tests/lint/errors.py --write .

screens: all
	$(Q)BUILD=$(CURDIR)/$(B) tests/console/regenerate

demo: deps all
	$(Q)BUILD=$(CURDIR)/$(B) tests/demo/run

lab: deps all
	$(Q)BUILD=$(CURDIR)/$(B) tests/lab/up $(call quote,$(LAB))

lab-down:
	$(Q)BUILD=$(CURDIR)/$(B) tests/lab/down $(call quote,$(LAB))

# Each header compiles alone, and twice.
hdr-check: $(patsubst %,$(B)/hdr/%.ok,$(headers))
$(B)/hdr/%.ok: % $(B)/.flags
	$(call say,HDR,$<)
	@mkdir -p $(@D)
	$(Q)printf '#include "%s"\n' '$<' '$<' | $(call compile,$<) -Werror -Wno-unused-function -fsyntax-only -MMD -MP -MT $@ -MF $(@:.ok=.d) -x c - && touch $@
-include $(patsubst %,$(B)/hdr/%.d,$(headers))

lint: cppcheck
	$(Q)tests/lint/lint.py .

cppcheck:
	$(Q)printf '%s\n' $(sources) | cppcheck -q -j2 --enable=warning,portability --inline-suppr --error-exitcode=1 \
	  --suppressions-list=tests/lint/cppcheck-suppressions --std=c11 -I. -Iagent -D_GNU_SOURCE -D__GNUC__=12 -D__x86_64__ \
	  '-DcJSON_ArrayForEach(e,a)=for(e=0;e;e=0)' \
	  --template='{file}:{line}: cppcheck: {message} [{id}]' --file-list=-

# The same seam as lint's, seen from the other side: what the compiled data path asks libc for.
seam_objects := $(call obj,$(foreach r,lane nbd capture stream journal replicator,$(src_$r)))
seam-check: $(seam_objects)
	$(Q)tests/lint/lint.py --objects $(B)/obj .

tracked_c = { git ls-files '*.c' '*.h' 2>/dev/null || find common agent tui tests -name '*.[ch]'; }
format-check:
	$(Q)$(tracked_c) | xargs -r clang-format --dry-run -Werror

# One file a run: clang-tidy 14 carries what it knows of va_start from one file into the next and then finds every
# va_list of those uninitialized.
FILES ?= $(sources)
tidy: | deps
	$(Q)printf '%s\n' $(FILES) | xargs -r -n 1 -P $$(nproc) sh -c 'clang-tidy --quiet \
	  --warnings-as-errors="*,-readability-function-cognitive-complexity" "$$@" -- \
	  -std=gnu11 -D_GNU_SOURCE -DHOLDFAST_VERSION="\"$(VERSION)\"" -I. -Iagent -Itests $(PKG_CFLAGS)' tidy

analyze:
	$(Q)$(MAKE) --no-print-directory ANALYZE=1 CC=gcc WERROR=$(WERROR) analyze-objects
analyze-objects: $(call obj,$(sources))

coverage:
	$(Q)find build/coverage -name '*.gcda' -delete 2>/dev/null || :
	-$(Q)$(MAKE) --no-print-directory COVERAGE=1 CC=gcc check-unit
	-$(Q)$(MAKE) --no-print-directory COVERAGE=1 CC=gcc check-system
	$(Q)lcov -q --capture --directory build/coverage --no-external --base-directory $(CURDIR) -o build/coverage/all.info
	$(Q)lcov -q --remove build/coverage/all.info '*/tests/*' -o build/coverage/lines.info
	$(Q)genhtml -q build/coverage/lines.info -o build/coverage/html
	$(Q)lcov --summary build/coverage/lines.info

# ---- Release ---------------------------------------------------------------------------------------------------

dist:
	$(Q)mkdir -p build
	$(Q)git archive --prefix=holdfast-$(VERSION)/ HEAD | gzip -n9 >build/holdfast-$(VERSION).tar.gz
	@echo build/holdfast-$(VERSION).tar.gz

man_pages := $(wildcard docs/man/*.[1-8])
pages := $(wildcard docs/*.md docs/formats/*.md)
units := $(wildcard conf/*.service.in)
install: all install-data
	install -d '$(DESTDIR)$(BINDIR)' '$(DESTDIR)$(SBINDIR)'
	$(if $(filter %/holdfast,$(programs)),install -m 0755 $(B)/holdfast '$(DESTDIR)$(BINDIR)/holdfast')
	$(if $(filter %/holdfastd,$(programs)),install -m 0755 $(B)/holdfastd '$(DESTDIR)$(SBINDIR)/holdfastd')

# All but the programs.  The units name them where they are installed.
install-data:
	install -d '$(DESTDIR)$(DOCDIR)/conf' '$(DESTDIR)$(DOCDIR)/docs/formats' '$(DESTDIR)$(UNITDIR)'
	$(foreach m,$(man_pages),install -D -m 0644 $m '$(DESTDIR)$(MANDIR)/man$(subst .,,$(suffix $m))/$(notdir $m)' &&) :
	$(foreach u,$(units),sed 's|@SBINDIR@|$(SBINDIR)|' $u >'$(DESTDIR)$(UNITDIR)/$(basename $(notdir $u))' && \
	  chmod 0644 '$(DESTDIR)$(UNITDIR)/$(basename $(notdir $u))' &&) :
	$(foreach c,$(filter-out $(units),$(wildcard conf/*)),install -m 0644 $c '$(DESTDIR)$(DOCDIR)/conf/$(notdir $c)' &&) :
	$(foreach d,$(wildcard README.md LICENSE NEWS SECURITY.md CONTRIBUTING.md) $(pages),install -m 0644 $d '$(DESTDIR)$(DOCDIR)/$d' &&) :

# A lab's state under build/ is not taken from beneath its running processes.
clean:
	$(Q)for lab in $$(find build -name lab.json 2>/dev/null | tr ' ' '?'); do \
	  echo "clean: a lab is up in $${lab%/lab.json}: make lab-down LAB='$${lab%/lab.json}' first" >&2; exit 1; done
	rm -rf build
