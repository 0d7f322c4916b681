package android.content;

public abstract class Context {
    public static final String ACTIVITY_SERVICE = "activity";

    public abstract Context getApplicationContext();

    public abstract Object getSystemService(String name);

    public abstract ContentResolver getContentResolver();

    public abstract void registerComponentCallbacks(ComponentCallbacks callback);

    public abstract void unregisterComponentCallbacks(ComponentCallbacks callback);
}
