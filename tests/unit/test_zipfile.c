#include "base/zipfile.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zip.h>
#include <cmocka.h>

static char path[64];

static int enter(void **state)
{
    (void)state;
    strcpy(path, "/tmp/tv3s_zip_XXXXXX");
    int fd = mkstemp(path);
    return fd < 0 || close(fd) != 0;
}

static int leave(void **state)
{
    (void)state;
    return unlink(path);
}

/* Writes `count` entries after `hole` bytes of nothing, and has libzip read some of them. */
static void check(int count, uint64_t hole)
{
    struct outfile *f;
    struct zipfile *z;
    char name[32], data[32];
    struct zip_stat st;
    int why;
    assert_int_equal(outfile_open(path, &f), ERR_OK);
    if (hole)
        assert_int_equal(outfile_write_at(f, hole - 1, "", 1), ERR_OK);
    assert_int_equal(zipfile_open(f, &z), ERR_OK);
    for (int i = 0; i < count; i++) {
        snprintf(name, sizeof name, "%06d.txt", i);
        int len = snprintf(data, sizeof data, "entry %d", i);
        assert_int_equal(zipfile_add(z, name, data, (size_t)len), ERR_OK);
    }
    assert_int_equal(zipfile_finish(z), ERR_OK);
    zipfile_close(z);
    assert_int_equal(outfile_commit(f), ERR_OK);

    zip_t *archive = zip_open(path, ZIP_RDONLY | ZIP_CHECKCONS, &why);
    assert_non_null(archive);
    assert_int_equal(zip_get_num_entries(archive, 0), count);
    for (int i = 0; i<count; i += count> 10 ? count / 7 : 1) {
        snprintf(name, sizeof name, "%06d.txt", i);
        int len = snprintf(data, sizeof data, "entry %d", i);
        char back[32] = "";
        zip_file_t *entry = zip_fopen(archive, name, 0);
        assert_non_null(entry);
        assert_int_equal(zip_stat(archive, name, 0, &st), 0);
        assert_int_equal(st.size, len);
        assert_int_equal(zip_fread(entry, back, sizeof back - 1), len); /* checks the CRC at EOF */
        assert_string_equal(back, data);
        assert_int_equal(zip_fread(entry, back, 1), 0);
        assert_int_equal(zip_fclose(entry), 0);
    }
    zip_close(archive);
}

static void libzip_reads_what_was_written(void **state)
{
    (void)state;
    check(1, 0);
    check(3, 0);
}

static void more_entries_than_16_bits_count(void **state)
{
    (void)state;
    check(0xfffe, 0);
    check(0xffff, 0);
    check(70000, 0);
}

static void offsets_beyond_4_gib(void **state)
{
    (void)state;
    check(3, 0x120000000); /* a sparse file */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(libzip_reads_what_was_written),
        cmocka_unit_test(more_entries_than_16_bits_count),
        cmocka_unit_test(offsets_beyond_4_gib),
    };
    return cmocka_run_group_tests_name("zipfile", tests, enter, leave);
}
