package android.app;

public class ActivityManager {
    public static class MemoryInfo {
        public long availMem;
        public long totalMem;
        public long threshold;
        public boolean lowMemory;
    }

    public void getMemoryInfo(MemoryInfo info) {
        throw new UnsupportedOperationException();
    }
}
